// Probe is the upstream client of the program without the program. It executes the commands of TestWorstCase, among
// them one that collects garbage, which empties crypto/tls's pool of buffers. With -naive it writes records of any size
// in place of the good ones, to prove that the test would find the copies that they leave. With -locked the key may lie
// in locked memory.
//
// The key comes on standard input, commands on descriptor 3; the response to each is a line on descriptor 4.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// sender sends a request with so many bytes of padding in path, head and body,
// and drops the response.
type sender interface {
	send(path, head, body int) error
	close()
}

func run() error {
	url := flag.String("url", "", "of the upstream")
	legacy := flag.Bool("legacy", false, "TLS 1.2")
	naive := flag.Bool("naive", false, "write records of any size")
	locked := flag.Bool("locked", false, "do without secret memory")
	flag.Parse()
	if _, err := sandbox.Protect(); err != nil {
		return err
	}
	key, err := secret.Read(0, secret.Config{Require: !*locked})
	if err != nil {
		return err
	}
	var s sender = &careful{url: *url, key: key, legacy: *legacy}
	if *naive {
		s = &blunt{url: *url, key: key}
	}
	return obey(s)
}

func obey(s sender) error {
	in, out := bufio.NewScanner(os.NewFile(3, "commands")), os.NewFile(4, "answers")
	for in.Scan() {
		if _, err := fmt.Fprintln(out, answer(do(s, in.Text()))); err != nil {
			return err
		}
	}
	return in.Err()
}

func answer(err error) string {
	if err == nil {
		return "ok"
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

func do(s sender, line string) error {
	var path, head, body int
	switch n, _ := fmt.Sscanf(line, "req %d %d %d", &path, &head, &body); {
	case n == 3:
		return s.send(path, head, body)
	case line == "gc":
		runtime.GC()
		runtime.GC() // what the first has left in the pools' second chance
	case line == "close":
		s.close()
	default:
		return errors.New("unknown command")
	}
	return nil
}

// careful is what the program does.
type careful struct {
	url     string
	key     *secret.Key
	legacy  bool
	clients map[int]*upstream.Client // by padding of the path
}

func (c *careful) client(path int) (*upstream.Client, error) {
	if client := c.clients[path]; client != nil {
		return client, nil
	}
	target, err := upstream.ParseTarget(c.url+"?"+strings.Repeat("p", path), false)
	if err != nil {
		return nil, err
	}
	client, err := upstream.New(upstream.Config{Target: target, Key: c.key, LegacyTLS: c.legacy})
	if err != nil {
		return nil, err
	}
	if c.clients == nil {
		c.clients = map[int]*upstream.Client{}
	}
	c.clients[path] = client
	return client, nil
}

func (c *careful) send(path, head, body int) error {
	client, err := c.client(path)
	if err != nil {
		return err
	}
	res, err := client.Do(context.Background(), &upstream.Request{
		Fields: []http1.Field{{Name: []byte("x-pad"), Value: bytes.Repeat([]byte("h"), head)}},
		Start:  bytes.Repeat([]byte("b"), body),
		Length: int64(body),
	})
	if err != nil {
		return err
	}
	defer res.Close()
	for {
		switch _, err := res.Next(); {
		case errors.Is(err, io.EOF):
			return status(res.Head.Status)
		case err != nil:
			return err
		}
	}
}

func status(got int) error {
	if got != 200 {
		return fmt.Errorf("status %d", got)
	}
	return nil
}

func (c *careful) close() {
	for _, client := range c.clients {
		client.Close()
	}
	c.clients = nil
}

// blunt puts the key in from secret memory as well, and last, but lets
// crypto/tls have the head in one piece.
type blunt struct {
	url string
	key *secret.Key
	c   *tls.Conn
	in  *bufio.Reader
}

func (b *blunt) dial(target *upstream.Target) (err error) {
	if b.c != nil {
		return nil
	}
	b.c, err = tls.Dial("tcp", target.Addr, &tls.Config{
		ServerName: target.Name, MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
	})
	b.in = bufio.NewReader(b.c)
	return err
}

func (b *blunt) send(path, head, body int) error {
	target, err := upstream.ParseTarget(b.url+"?"+strings.Repeat("p", path), false)
	if err == nil {
		err = b.dial(target)
	}
	if err == nil {
		err = b.writeHead(target, head, body)
	}
	if err == nil {
		_, err = b.c.Write(bytes.Repeat([]byte("b"), body))
	}
	if err != nil {
		return err
	}
	res, err := http.ReadResponse(b.in, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return errors.Join(err, status(res.StatusCode))
}

func (b *blunt) writeHead(target *upstream.Target, head, body int) error {
	slot, err := b.key.Slot(context.Background())
	if err != nil {
		return err
	}
	used := 0
	defer func() { slot.Release(used) }()
	add := func(s string) { used += copy(slot.Bytes()[used:], s) }
	add("POST " + target.Path + " HTTP/1.1\r\nhost: " + target.Host + "\r\n")
	err = b.key.Line(func(line []byte) error {
		used += copy(slot.Bytes()[used:], line)
		return nil
	})
	if err != nil {
		return err
	}
	fields := fmt.Sprintf("x-pad: %s\r\ncontent-length: %d\r\n\r\n", strings.Repeat("h", head), body)
	if len(fields) > len(slot.Bytes())-used {
		return errors.New("the naive probe has room for 8 KiB of head only")
	}
	add(fields)
	_, err = b.c.Write(slot.Bytes()[:used])
	return err
}

func (b *blunt) close() {
	if b.c != nil {
		b.c.Close()
		b.c = nil
	}
}
