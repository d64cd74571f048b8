package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
)

// naiveCommand is the argument with which the demo starts itself as the naive proxy. It is internal.
const naiveCommand = "naive-proxy-of-the-demo"

// newProxy makes a proxy to target that adds key.
type newProxy func(target *url.URL, key string) http.Handler

// naive serves an upstream's URL until standard input ends, whose first line is the key, and writes its port and pid to
// the file info. Standard input ends with the demo, however that ends.
func naive(upstream, info string, proxy newProxy) error {
	target, err := url.Parse(upstream)
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
	text := fmt.Sprintf(`{"port":%d,"pid":%d}`, ln.Addr().(*net.TCPAddr).Port, os.Getpid())
	if err := os.WriteFile(info, []byte(text), 0o600); err != nil {
		return err
	}
	io.Copy(io.Discard, stdin)
	return errors.New("standard input has ended")
}

// naiveProxy is the standard library's proxy with no protection for the key: it sets the field, as most proxies would.
func naiveProxy(target *url.URL, key string) http.Handler {
	p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL, r.Out.Host = target, target.Host
		r.Out.Header.Set("Authorization", "Bearer "+key)
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Without full duplex, net/http truncates some responses, and the load would fail.
		http.NewResponseController(w).EnableFullDuplex()
		p.ServeHTTP(w, r)
	})
}
