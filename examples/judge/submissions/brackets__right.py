# A stack of the brackets that are expected.
PAIRS = {"(": ")", "[": "]", "{": "}"}


def check(text: str) -> str:
    expected = []
    for position, bracket in enumerate(text, 1):
        if bracket in PAIRS:
            expected.append(PAIRS[bracket])
        elif not expected or expected.pop() != bracket:
            return str(position)
    return str(len(text) + 1) if expected else "balanced"


print(check(input().strip()))
