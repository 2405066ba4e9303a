//go:build tools

// Package tools pins the tools that developers run; the product's go.sum stays
// short because they live in a module of their own.
package tools

import (
	_ "github.com/cilium/ebpf/cmd/bpf2go"
	_ "golang.org/x/perf/cmd/benchstat"
	_ "honnef.co/go/tools/cmd/staticcheck"
)
