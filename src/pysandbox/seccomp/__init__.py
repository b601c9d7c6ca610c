"""System-call filters: rules, the filters that they make, and running those without the kernel; see seccomp(2)."""
