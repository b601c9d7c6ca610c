# Adds in pieces of 18 digits: int() alone refuses to read more than 4300.
a, b = input(), input()
width = max(len(a), len(b)) // 18 * 18 + 18
a, b = a.zfill(width), b.zfill(width)
pieces, carry = [], 0
for i in range(width - 18, -1, -18):
    carry, piece = divmod(int(a[i : i + 18]) + int(b[i : i + 18]) + carry, 10**18)
    pieces.append(f"{piece:018d}")
print("".join(reversed(pieces)).lstrip("0") or "0")
