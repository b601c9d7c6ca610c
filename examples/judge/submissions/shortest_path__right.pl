# Dijkstra without a heap: looks for the nearest open node each time.
use strict;
use warnings;

my ($n, $m, $s, $t, @rest) = map { split } <STDIN>;
my (%edges, %final);
while (my ($u, $v, $w) = splice @rest, 0, 3) {
    push @{$edges{$u}}, [$v, $w];
}
my %open = ($s => 0);
while (%open) {
    my $u;
    for my $node (keys %open) {
        $u = $node if !defined $u || $open{$node} < $open{$u};
    }
    $final{$u} = delete $open{$u};
    for my $edge (@{$edges{$u} // []}) {
        my ($v, $d) = ($edge->[0], $final{$u} + $edge->[1]);
        next if exists $final{$v};
        $open{$v} = $d if !exists $open{$v} || $d < $open{$v};
    }
}
print $final{$t} // -1, "\n";
