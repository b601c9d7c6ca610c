// A stack of the brackets that are expected.
#include <iostream>
#include <string>

int main() {
    std::string text, expected;
    std::cin >> text;
    for (std::size_t i = 0; i < text.size(); ++i) {
        char c = text[i];
        if (c == '(') expected += ')';
        else if (c == '[') expected += ']';
        else if (c == '{') expected += '}';
        else if (!expected.empty() && expected.back() == c) expected.pop_back();
        else return std::cout << i + 1 << '\n', 0;
    }
    if (expected.empty()) std::cout << "balanced\n";
    else std::cout << text.size() + 1 << '\n';
}
