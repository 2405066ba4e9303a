package kernel

// Finals is a small table as the answers to all combinations of what [Classes] choose
// in two or more groups, pair by pair. The assembly knows its layout.
type Finals struct {
	// Tables is, for each link, the numbers of combinations of what was found so far and what the
	// next group chose; those of the last link are rules.
	Tables []uint16 // one more element follows the last
	Links  uint32
	Link   [MaxGroups - 1]Link
}

// Link is where the numbers of a link start in Tables, and by what to multiply what was
// found so far.
type Link struct{ Start, Factor uint32 }

// FinalGo sets the best rule of the first n lanes.
func FinalGo(f *Finals, chosen *Chosen, n int, best *[Lanes]int32) {
	for i := range n {
		found := chosen[0][i]
		for g, link := range f.Link[:f.Links] {
			found = uint32(f.Tables[link.Start+found*link.Factor+chosen[g+1][i]])
		}
		best[i] = int32(found)
	}
}
