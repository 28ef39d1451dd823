package restoreenv

import (
	"os"
	"path/filepath"
)

const (
	// maxCompared bounds how much of a path is compared, from its end, where
	// paths differ.
	maxCompared = 128
	// maxSiblings bounds how many names of a directory are considered.
	maxSiblings = 1024
)

// nearest returns the candidate most similar to name, the first of several, or
// "" where none is more similar than different.
func nearest(name string, candidates []string) string {
	best, bestDistance := "", 0
	for _, candidate := range candidates {
		distance := editDistance(tail(name), tail(candidate))
		similar := 2*distance <= max(len(tail(name)), len(tail(candidate)))
		if similar && (best == "" || distance < bestDistance) {
			best, bestDistance = candidate, distance
		}
	}
	return best
}

func tail(name string) string { return name[max(0, len(name)-maxCompared):] }

// editDistance is how many bytes must be inserted, removed or replaced to turn a
// into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// nearestPath returns the path on this host most similar to one that does not
// exist: another name in the directory where it would be.
func nearestPath(missing string) string {
	dir, name := filepath.Split(missing)
	parent, err := os.Open(dir)
	if err != nil {
		return ""
	}
	defer parent.Close()
	siblings, _ := parent.Readdirnames(maxSiblings) // what was read before an error is good
	if sibling := nearest(name, siblings); sibling != "" {
		return filepath.Join(dir, sibling)
	}
	return ""
}
