// A sieve of the primes, and a binary search in their list.
#include <algorithm>
#include <iostream>
#include <vector>

int main() {
    constexpr int limit = 1000001;
    std::vector<bool> composite(limit);
    std::vector<int> primes;
    for (int i = 2; i < limit; ++i) {
        if (composite[i]) continue;
        primes.push_back(i);
        for (long long j = 1LL * i * i; j < limit; j += i) composite[j] = true;
    }
    int q, n;
    for (std::cin >> q; q-- > 0 && std::cin >> n;)
        std::cout << std::upper_bound(primes.begin(), primes.end(), n) - primes.begin() << '\n';
}
