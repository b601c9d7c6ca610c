// Keeps the smallest last element of every length.
#include <algorithm>
#include <iostream>
#include <vector>

int main() {
    int n, x;
    std::cin >> n;
    std::vector<int> last;
    while (n-- > 0 && std::cin >> x) {
        auto place = std::lower_bound(last.begin(), last.end(), x);
        if (place == last.end()) last.push_back(x);
        else *place = x;
    }
    std::cout << last.size() << '\n';
}
