# A stack of the brackets that are expected.
use strict;
use warnings;

my %pairs = ('(' => ')', '[' => ']', '{' => '}');
chomp(my $text = <STDIN>);
my ($position, @expected) = (0);
for my $bracket (split //, $text) {
    $position++;
    if (my $closing = $pairs{$bracket}) { push @expected, $closing; next }
    next if @expected && pop(@expected) eq $bracket;
    print "$position\n";
    exit;
}
print @expected ? $position + 1 : "balanced", "\n";
