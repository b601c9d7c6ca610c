/* init with libc's start, for the sanitizers. */
_Noreturn void pb_init(void);

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0:exitcode=99:handle_segv=1:detect_stack_use_after_return=0";
}

int main(void) { pb_init(); }
