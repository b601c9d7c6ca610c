# Wrong: takes 1 for a prime.
use strict;
use warnings;

my ($q, @questions) = map { split } <STDIN>;
for my $n (@questions) {
    my $count = 0;
    for my $i (1 .. $n) {
        my $divisors = grep { $i % $_ == 0 } 2 .. sqrt $i;
        $count++ if $divisors == 0;
    }
    print "$count\n";
}
