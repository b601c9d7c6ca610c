/* Prints for ever. */
#include <stdio.h>

int main(void) {
    for (;;) puts("balanced, balanced, balanced, balanced, balanced, balanced, balanced!");
}
