# One row of the table at a time.
use strict;
use warnings;

chomp(my ($left, $right) = (scalar <STDIN>, scalar <STDIN>));
my @a   = split //, $left;
my @b   = split //, $right;
my @row = (0 .. @b);
for my $i (0 .. $#a) {
    my $diagonal = $row[0]++;
    for my $j (0 .. $#b) {
        my $best = $diagonal + ($a[$i] ne $b[$j] ? 1 : 0);
        $diagonal = $row[$j + 1];
        $best = $diagonal + 1 if $diagonal + 1 < $best;
        $best = $row[$j] + 1  if $row[$j] + 1 < $best;
        $row[$j + 1] = $best;
    }
}
print "$row[-1]\n";
