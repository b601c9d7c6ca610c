# Does not compile.
use strict;

my $text = <STDIN>;
print "balanced\n" if length $text {
