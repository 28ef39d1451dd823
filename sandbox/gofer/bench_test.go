package gofer

import "testing"

// BenchmarkStart is the time from Start until a gofer serves, with this
// package's own initialization in it, and its end.
func BenchmarkStart(b *testing.B) {
	dir := tree(b, map[string]string{"etc/hello": "hello"})
	for b.Loop() {
		p := startGofer(b, Config{Mounts: []Mount{{Source: dir, ReadOnly: true}, {Source: dir}, {Source: dir}}})
		b.StopTimer()
		p.Close()
		if err := p.Wait(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
