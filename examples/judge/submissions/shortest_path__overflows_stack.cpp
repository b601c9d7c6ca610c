// Visits nodes by a recursion that has no end, until the stack has one.
#include <iostream>

static int visit(int node) {
    volatile char path[4096];
    path[node % 4096] = static_cast<char>(node);
    return visit(node + 1) + path[node % 4096];
}

int main() {
    std::cout << visit(0) << '\n';
}
