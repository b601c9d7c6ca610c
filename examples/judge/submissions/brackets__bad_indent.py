# Does not compile.
text = input()
  print("balanced" if not text else 1)
