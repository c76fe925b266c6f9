# What a User Mode Linux with KASAN and lockdep complains of in its log. UML itself walks a maple tree without RCU when
# it clones an address space (6.1, arch/um/kernel/tlb.c); that complaint is its own, every other one is ours.
/suspicious RCU usage/ { rcu = NR; line = $0 }
rcu && NR == rcu + 3 { if (!/lib\/maple_tree.c/) print line ": " $0; rcu = 0 }
/suspicious RCU usage/ { next }
/KASAN:|BUG:|^WARNING:|Oops|Kernel panic|possible (circular|recursive|irq)|inconsistent lock state|blocked for more than|scheduling while atomic|sleeping function|DEBUG_LOCKS_WARN/
