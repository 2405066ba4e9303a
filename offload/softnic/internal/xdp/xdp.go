// Package xdp holds the programs of the emulated card as compiled objects, and its
// memory as Go types. It decides nothing; package softnic is the driver. Start
// reading with bpf/card.h and bpf/card.c.
package xdp

//go:generate bpf2go -go-package xdp -target bpfel -cc clang-14 -strip llvm-strip-14 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type match_table -type slot -type port_stats -type netdev Card bpf/card.c
