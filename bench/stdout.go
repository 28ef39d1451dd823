package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// A line is what a workload said, and when it arrived.
type line struct {
	text string
	at   time.Time
}

// stdout reads a workload's pipe and stamps each line.
type stdout struct {
	write *os.File // for the runtime; closed by started
	read  *os.File

	mu    sync.Mutex
	lines []line
	ended bool
	news  *sync.Cond
}

func newStdout() (*stdout, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &stdout{read: read, write: write}
	s.news = sync.NewCond(&s.mu)
	go s.collect()
	return s, nil
}

func (s *stdout) collect() {
	scanner := bufio.NewScanner(s.read)
	for scanner.Scan() {
		at := time.Now()
		s.mu.Lock()
		s.lines = append(s.lines, line{scanner.Text(), at})
		s.mu.Unlock()
		s.news.Broadcast()
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.news.Broadcast()
}

// started closes our copy of the end that the runtime now has, so that the pipe ends with the workload.
func (s *stdout) started() { s.write.Close() }

func (s *stdout) close() {
	s.write.Close()
	s.read.Close()
}

// await returns the first line that begins with what, among those that arrived at or after a time.
func (s *stdout) await(what string, since time.Time, limit time.Duration) (line, error) {
	expired := false
	timer := time.AfterFunc(limit, func() {
		s.mu.Lock()
		expired = true
		s.mu.Unlock()
		s.news.Broadcast()
	})
	defer timer.Stop()

	s.mu.Lock()
	defer s.mu.Unlock()
	for seen := 0; ; s.news.Wait() {
		for ; seen < len(s.lines); seen++ {
			if l := s.lines[seen]; !l.at.Before(since) && strings.HasPrefix(l.text, what) {
				return l, nil
			}
		}
		if s.ended {
			return line{}, fmt.Errorf("the workload ended before it said %q; it said %s", what, s.lastLocked())
		}
		if expired {
			return line{}, fmt.Errorf("no %q within %v; the workload said %s", what, limit, s.lastLocked())
		}
	}
}

// lastLocked returns the last lines for a message.
func (s *stdout) lastLocked() string {
	var texts []string
	for _, l := range s.lines[max(0, len(s.lines)-5):] {
		texts = append(texts, l.text)
	}
	return fmt.Sprintf("%q", texts)
}

// longestGap returns the longest silence between two ticks within a time, the one that reaches into it included.
func (s *stdout) longestGap(from, to time.Time) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var longest time.Duration
	var previous time.Time
	for _, l := range s.lines {
		if !strings.HasPrefix(l.text, "tick") {
			continue
		}
		if !previous.IsZero() && l.at.After(from) {
			longest = max(longest, l.at.Sub(previous))
		}
		if l.at.After(to) {
			return longest, nil
		}
		previous = l.at
	}
	return 0, errors.New("the workload does not go on after the checkpoint")
}
