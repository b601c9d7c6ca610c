# Tries to mark files and folders that are not its own, and answers only if it could mark none.
use strict;
use warnings;

my @marked;
for my $file (qw(/etc/passwd /etc/hosts /bin/sh /usr/bin/perl /proc/sys/kernel/hostname)) {
    push @marked, $file if open my $handle, '>>', $file;
}
for my $folder (qw(/usr /usr/bin /usr/lib)) {
    push @marked, $folder if mkdir "$folder/marked";
}
die "marked: @marked\n" if @marked;

chomp(my ($left, $right) = (scalar <STDIN>, scalar <STDIN>));
my @row = (0 .. length $right);
for my $x (split //, $left) {
    my ($diagonal, $j) = ($row[0]++, 0);
    for my $y (split //, $right) {
        my $best = $diagonal + ($x ne $y ? 1 : 0);
        $diagonal = $row[++$j];
        $best = $diagonal + 1    if $diagonal + 1 < $best;
        $best = $row[$j - 1] + 1 if $row[$j - 1] + 1 < $best;
        $row[$j] = $best;
    }
}
print "$row[-1]\n";
