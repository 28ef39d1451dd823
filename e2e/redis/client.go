package redis

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// maxValueBytes bounds a reply.
const maxValueBytes = 64 << 20

// A Client is one connection. It is never opened again.
type Client struct {
	conn    net.Conn
	replies *bufio.Reader
}

// NewClient takes ownership of a connection.
func NewClient(conn net.Conn) *Client {
	return &Client{conn: conn, replies: bufio.NewReaderSize(conn, 64<<10)}
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Encode returns a command as it is sent.
func Encode(words ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	return b.Bytes()
}

// Send sends a command.
func (c *Client) Send(words ...string) error { return c.Write(Encode(words...)) }

// Write sends encoded commands together. Each is answered.
func (c *Client) Write(commands []byte) error {
	_, err := c.conn.Write(commands)
	return err
}

// Reply waits for the next answer. What redis calls an error is one, and so is a value that it does not have.
func (c *Client) Reply() (string, error) {
	line, err := c.replies.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" || line[0] == '-' {
		return "", fmt.Errorf("redis says %q", line)
	}
	if line[0] != '$' {
		return line[1:], nil
	}
	n, err := strconv.Atoi(line[1:])
	if err != nil || n < 0 || n > maxValueBytes {
		return "", fmt.Errorf("redis has no such value: %q", line)
	}
	value := make([]byte, n+2)
	_, err = io.ReadFull(c.replies, value)
	return string(value[:n]), err
}

// Ask sends a command and waits for its answer.
func (c *Client) Ask(words ...string) (string, error) {
	if err := c.Send(words...); err != nil {
		return "", fmt.Errorf("%s: %w", words[0], err)
	}
	answer, err := c.Reply()
	if err != nil {
		return "", fmt.Errorf("%s: %w", words[0], err)
	}
	return answer, nil
}

// Fill sets so many keys to values of a size, every other one to random bytes.
func (c *Client) Fill(keys, valueBytes int) error {
	const batch = 256
	value := make([]byte, valueBytes)
	for first := 0; first < keys; first += batch {
		var b bytes.Buffer
		n := min(batch, keys-first)
		for i := range n {
			if i%2 == 0 {
				rand.Read(value)
			} else {
				copy(value, bytes.Repeat([]byte{byte(i)}, valueBytes))
			}
			b.Write(Encode("SET", fmt.Sprintf("key:%d", first+i), string(value)))
		}
		if err := c.Write(b.Bytes()); err != nil {
			return fmt.Errorf("fill from key %d on: %w", first, err)
		}
		for i := range n {
			if _, err := c.Reply(); err != nil {
				return fmt.Errorf("fill key %d: %w", first+i, err)
			}
		}
	}
	return nil
}
