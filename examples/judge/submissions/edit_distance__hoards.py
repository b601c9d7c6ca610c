# Takes a gibibyte, 16 MiB at a time, and touches every page of it.
hoard = [b"x" * (16 << 20) for _ in range(64)]
print(len(hoard))
