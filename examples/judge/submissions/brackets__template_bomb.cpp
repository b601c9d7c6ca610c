// Attacks the compiler: it would have to make a list of two hundred million numbers.
#include <utility>

using Bomb = std::make_index_sequence<200000000>;

int main() {
    return sizeof(Bomb);
}
