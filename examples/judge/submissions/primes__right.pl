# A sieve in one string; tr counts in the stretch between two questions, taken in order.
use strict;
use warnings;

my ($q, @questions) = map { split } <STDIN>;
my $limit = 1_000_001;
my $sieve = "1" x $limit;
substr($sieve, 0, 2) = "00";
for my $i (2 .. 1000) {
    next unless substr($sieve, $i, 1);
    for (my $j = $i * $i; $j < $limit; $j += $i) { substr($sieve, $j, 1) = "0" }
}
my ($at, $count, %answer) = (0, 0);
for my $n (sort { $a <=> $b } @questions) {
    $count += substr($sieve, $at, $n + 1 - $at) =~ tr/1//;
    $at = $n + 1;
    $answer{$n} = $count;
}
print "$answer{$_}\n" for @questions;
