# Keeps the smallest last element of every length.
use strict;
use warnings;

my ($n, @numbers) = map { split } <STDIN>;
my @last;
for my $x (@numbers) {
    my ($low, $high) = (0, scalar @last);
    while ($low < $high) {
        my $middle = int(($low + $high) / 2);
        if ($last[$middle] < $x) { $low = $middle + 1 }
        else                     { $high = $middle }
    }
    $last[$low] = $x;
}
print scalar(@last), "\n";
