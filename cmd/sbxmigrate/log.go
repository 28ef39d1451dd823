package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// The formats of the log.
const (
	logFormatText = "text"
	logFormatJSON = "json"
)

// Levels, named as runc names them: container managers look for the last
// error in the log.
const (
	levelWarning = "warning"
	levelError   = "error"
)

// logger writes warnings and errors for people, or for the program that called
// us.
type logger struct {
	w    io.Writer
	json bool
	file *os.File // set where w is a file of ours
}

// logLine is one line of a JSON log.
type logLine struct {
	Level string `json:"level"`
	Msg   string `json:"msg"`
	Time  string `json:"time"`
}

// openLog opens what --log and --log-format name.
func (c *cli) openLog() error {
	switch c.logFormat {
	case logFormatText, logFormatJSON:
	default:
		return usageError("--log-format is %q, want text or json", c.logFormat)
	}
	c.log = &logger{w: c.stderr, json: c.logFormat == logFormatJSON}
	if c.logPath == "" {
		return nil
	}
	file, err := os.OpenFile(c.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	c.log.w, c.log.file = file, file
	return nil
}

func (c *cli) closeLog() {
	if c.log != nil && c.log.file != nil {
		c.log.file.Close()
	}
}

// warn says what the user should know and what does not stop the command.
func (c *cli) warn(messages ...string) {
	for _, message := range messages {
		c.log.write(levelWarning, message, time.Now())
	}
}

func (l *logger) write(level, message string, now time.Time) {
	switch {
	case l.json:
		line, _ := json.Marshal(logLine{level, message, now.Format(time.RFC3339Nano)}) // strings always marshal
		fmt.Fprintf(l.w, "%s\n", line)
	case l.file != nil:
		fmt.Fprintf(l.w, "time=%q level=%s msg=%q\n", now.Format(time.RFC3339Nano), level, message)
	default:
		// A message may quote what a sandbox, an image or another host said. Only errors have several lines of our own.
		show := printableLines
		if level == levelWarning {
			show = printable
		}
		fmt.Fprintf(l.w, "%s: %s\n", level, show(message))
	}
}

// shownError is an error as --json shows it, on stderr.
type shownError struct {
	Code       string `json:"code"`
	Message    string `json:"message"`
	Hint       string `json:"hint,omitempty"`
	ExitStatus int    `json:"exitStatus"`
}

// showError prints an error to stderr, and to the log if that is a file.
func (c *cli) showError(err error, class errorClass, asJSON bool) {
	message := fmt.Sprintf("%v [%s]", err, class.code)
	if c.log == nil {
		// The command line went wrong before anything opened the log that it may name: a container manager reads it there.
		c.openLog()
	}
	if c.log != nil && c.log.file != nil {
		c.log.write(levelError, message, time.Now())
	}
	if asJSON {
		line, _ := json.Marshal(shownError{class.code, err.Error(), class.hint, class.status})
		fmt.Fprintf(c.stderr, "%s\n", line)
		return
	}
	stderr := &logger{w: c.stderr, json: c.logFormat == logFormatJSON && c.logPath == ""}
	stderr.write(levelError, message, time.Now())
	if class.hint != "" && !stderr.json {
		fmt.Fprintf(c.stderr, "hint: %s\n", class.hint)
	}
}
