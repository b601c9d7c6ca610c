// Does not compile.
#include <iostream>

int main() {
    std::cout << "balanced\n"
}
