# Prints for ever.
print "balanced\n" x 1000 while 1;
