package pages

// AuditResult is the verdict of an Audit.
type AuditResult struct {
	// PagesChecked is how many pages hold data.
	PagesChecked uint64
	// Missed are the pages that the other side has other data for, or none
	// although they are not zero. Empty is what one wants.
	Missed *Set
	// Stale are pages that the other side has and that are holes here. They are
	// no fault if the other side punches what the final list of committed pages
	// does not name.
	Stale *Set
}

// Audit hashes every page that holds data in the first sizeBytes of the memory
// file fd and compares it with the table of what was sent. Nothing may write to
// the file meanwhile: the sandbox is paused. It does not change the table.
func Audit(fd int, sizeBytes uint64, sent *Table) (AuditResult, error) {
	limit := sizeBytes / PageSize
	result := AuditResult{Missed: NewSet(limit), Stale: sent.Known()}
	buf := make([]byte, readPages*PageSize)
	check := func(start, end uint64) error {
		if err := readFull(fd, buf[:(end-start)*PageSize], start); err != nil {
			return err
		}
		for page := start; page < end; page++ {
			want, ok := sent.Get(page)
			if !ok {
				want = zeroHash // never sent: the other side reads zeros
			}
			if HashPage(buf[(page-start)*PageSize:][:PageSize]) != want {
				result.Missed.Add(page)
			}
		}
		return nil
	}
	committed, err := Committed(fd, sizeBytes)
	if err != nil {
		return result, err
	}
	result.PagesChecked = committed.Count()
	result.Stale.Subtract(committed)
	for start, end := range committed.Ranges() {
		for ; start < end; start += readPages {
			if err := check(start, min(start+readPages, end)); err != nil {
				return result, err
			}
		}
	}
	return result, nil
}
