// Wrong: upper_bound finds the longest subsequence that does not decrease.
#include <algorithm>
#include <iostream>
#include <vector>

int main() {
    int n, x;
    std::cin >> n;
    std::vector<int> last;
    while (n-- > 0 && std::cin >> x) {
        auto place = std::upper_bound(last.begin(), last.end(), x);
        if (place == last.end()) last.push_back(x);
        else *place = x;
    }
    std::cout << last.size() << '\n';
}
