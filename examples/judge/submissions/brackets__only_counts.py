# Wrong: counts brackets of each kind, and forgets their order.
text = input().strip()
if all(text.count(left) == text.count(right) for left, right in ("()", "[]", "{}")):
    print("balanced")
else:
    print(len(text) + 1)
