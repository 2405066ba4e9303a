// Package bladeflow is the root of the bladeflow module. It holds no code: the
// rooms of the house are its folders, docs/architecture.md draws them, and
// imports_test.go holds the arrows that are allowed between them.
package bladeflow
