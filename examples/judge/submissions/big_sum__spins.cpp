// Burns the processor and never answers.
int main() {
    volatile unsigned long long turns = 0;
    for (;;) turns = turns + 1;
}
