/* start.c: the entry point of init, and the four functions that gcc may call on its own account
 * (GCC manual, "-ffreestanding").  Only init is linked with it: the extension and the sanitizer build have libc's.
 */
#include <stddef.h>

_Noreturn void pb_init(void);

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    char *t = to;
    const char *f = from;
    while (n--)
        *t++ = *f++;
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    char *t = to;
    const char *f = from;
    if (t <= f)
        return memcpy(to, from, n);
    while (n--)
        t[n] = f[n];
    return to;
}

void *memset(void *at, int value, size_t n)
{
    char *a = at;
    while (n--)
        *a++ = (char)value;
    return at;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *x = a, *y = b;
    for (; n--; x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

/* The kernel enters with the stack aligned to 16 bytes; a C function expects a call to have been made. */
#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tcall pb_init\n\thlt\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tbl pb_init\n");
#endif
