// Adds digit by digit, from the right, into the longer number.
#include <iostream>
#include <string>

int main() {
    std::string a, b;
    std::cin >> a >> b;
    if (a.size() < b.size()) a.swap(b);
    b.insert(0, a.size() - b.size(), '0');
    int carry = 0;
    for (std::size_t i = a.size(); i-- > 0; carry /= 10) {
        carry += (a[i] - '0') + (b[i] - '0');
        a[i] = static_cast<char>('0' + carry % 10);
    }
    if (carry) a.insert(0, 1, '1');
    std::cout << a << '\n';
}
