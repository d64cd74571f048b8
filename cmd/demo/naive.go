package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/listen"
)

// naiveCommand is the argument with which the demo starts itself as the naive
// proxy. It is not for users.
const naiveCommand = "naive-proxy-of-the-demo"

// newProxy makes a proxy to target that adds key.
type newProxy func(target *url.URL, key string) http.Handler

// naiveMain serves until standard input ends, which it does with the demo,
// however that ended.
func naiveMain(args []string, proxy newProxy) int {
	if err := naive(args, proxy); err != nil {
		fmt.Fprintln(os.Stderr, "naive proxy:", err)
		return 1
	}
	return 0
}

func naive(args []string, proxy newProxy) error {
	if len(args) != 2 {
		return fmt.Errorf("it needs two arguments, not %d", len(args))
	}
	target, err := url.Parse(args[0])
	if err != nil {
		return err
	}
	stdin := bufio.NewReader(os.Stdin)
	key, err := stdin.ReadString('\n')
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(ln, proxy(target, strings.TrimSpace(key)))
	info, err := listen.PrepareInfo(args[1])
	if err != nil {
		return err
	}
	if err := info.Write(listen.Port(ln), os.Getpid()); err != nil {
		return err
	}
	io.Copy(io.Discard, stdin)
	return nil
}

// naiveProxy is the standard library's proxy with nothing done for or against
// the key: it sets the header, as everybody would.
func naiveProxy(target *url.URL, key string) http.Handler {
	p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL, r.Out.Host = target, target.Host
		r.Out.Header.Set("Authorization", "Bearer "+key)
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Without it net/http cuts a few answers short, and the load would fail.
		http.NewResponseController(w).EnableFullDuplex()
		p.ServeHTTP(w, r)
	})
}
