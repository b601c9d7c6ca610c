# The classic: every process forks for ever, and every child does the same.
fork while 1;
