// Takes a gibibyte, 16 MiB at a time, and touches every page of it.
#include <cstring>
#include <iostream>
#include <vector>

int main() {
    std::vector<char *> hoard;
    for (int i = 0; i < 64; ++i) {
        hoard.push_back(new char[16 << 20]);
        std::memset(hoard.back(), i + 1, 16 << 20);
    }
    long total = 0;
    for (char *chunk : hoard) total += chunk[12345];
    std::cout << total << '\n';
}
