package gofer

import "errors"

// ErrDied means that a gofer process ended before it served, without a reason
// that it could give; its log has more.
var ErrDied = errors.New("gofer process died before it served")
