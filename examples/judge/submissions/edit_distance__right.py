# One row of the table at a time.
a, b = input().strip(), input().strip()
row = list(range(len(b) + 1))
for i, x in enumerate(a, 1):
    diagonal, row[0] = row[0], i
    for j, y in enumerate(b, 1):
        best = diagonal + (x != y)
        diagonal = row[j]
        row[j] = min(best, diagonal + 1, row[j - 1] + 1)
print(row[-1])
