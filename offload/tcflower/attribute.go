package tcflower

import (
	"encoding/binary"
	"fmt"
)

// Netlink attributes: a length and a number of 16 bits each in the order of the
// machine, then the data, padded to four bytes. Lengths hold the header and not the
// padding. The two upper bits of the number are flags of whoever wrote it.

// Attribute is one netlink attribute as it came.
type Attribute struct {
	Kind uint16 // without flags
	Data []byte
}

const (
	attributeHeader = 4
	attributeKinds  = 0x3fff // the rest of a number is flags
	nested          = 0x8000
)

var native = binary.NativeEndian

// writer appends attributes.
type writer struct{ b []byte }

func (w *writer) attribute(kind uint16, data ...byte) {
	w.b = native.AppendUint16(w.b, uint16(attributeHeader+len(data)))
	w.b = native.AppendUint16(w.b, kind)
	w.b = append(w.b, data...)
	w.pad()
}

func (w *writer) pad() {
	for len(w.b)%4 != 0 {
		w.b = append(w.b, 0)
	}
}

func (w *writer) text(kind uint16, s string) { w.attribute(kind, append([]byte(s), 0)...) }

func (w *writer) u32(kind uint16, v uint32) { w.attribute(kind, native.AppendUint32(nil, v)...) }

// nest appends an attribute whose data is what f appends.
func (w *writer) nest(kind uint16, f func()) {
	at := len(w.b)
	w.b = append(w.b, 0, 0, 0, 0)
	f()
	native.PutUint16(w.b[at:], uint16(len(w.b)-at))
	native.PutUint16(w.b[at+2:], kind|nested)
}

// eachAttribute calls f with every attribute in b, in order. The data is part of b.
func eachAttribute(b []byte, f func(Attribute) error) error {
	for len(b) > 0 {
		if len(b) < attributeHeader {
			return fmt.Errorf("%d bytes where an attribute should be", len(b))
		}
		size := int(native.Uint16(b))
		if size < attributeHeader || size > len(b) {
			return fmt.Errorf("an attribute of %d bytes in the last %d", size, len(b))
		}
		if err := f(Attribute{native.Uint16(b[2:]) & attributeKinds, b[attributeHeader:size]}); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// word returns the first four bytes of data, or an error that names what lacks them.
func word(what string, data []byte) (uint32, error) {
	if len(data) < 4 {
		return 0, fmt.Errorf("%s of %d bytes", what, len(data))
	}
	return native.Uint32(data), nil
}

// text returns a string without the zero that ends it.
func text(data []byte) string {
	for i, c := range data {
		if c == 0 {
			return string(data[:i])
		}
	}
	return string(data)
}
