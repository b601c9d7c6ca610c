/* A stack of the brackets that are open. */
#include <stdio.h>
#include <string.h>

static char text[40002], stack[40002];

int main(void) {
    int depth = 0, i = 0;
    if (scanf("%40001s", text) != 1) return 1;
    for (; text[i]; i++) {
        const char *closes = strchr(")(][}{", text[i]);
        if (strchr("([{", text[i])) stack[depth++] = text[i];
        else if (depth == 0 || stack[--depth] != closes[1]) break;
    }
    if (text[i] == 0 && depth == 0) puts("balanced");
    else printf("%d\n", i + 1);
}
