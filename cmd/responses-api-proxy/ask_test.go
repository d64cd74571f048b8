package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// ask METHOD URL [HEADER:VALUE...] is a client for scripts: it prints status and
// body. It goes through the unix socket in $SOCKET if that is set. As uid of
// $AS_UID, if that is set, which needs root.
func ask() {
	if err := asUID(os.Getenv("AS_UID")); err != nil {
		fmt.Println("ask:", err)
		os.Exit(1)
	}
	transport := &http.Transport{}
	if socket := os.Getenv("SOCKET"); socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
	}
	req, err := http.NewRequest(os.Args[1], os.Args[2], strings.NewReader(`{"input":"hi"}`))
	if err == nil {
		for _, h := range os.Args[3:] {
			name, value, _ := strings.Cut(h, ":")
			req.Header.Set(name, value)
		}
		err = send(transport, req)
	}
	if err != nil {
		fmt.Println("ask:", err)
		os.Exit(1)
	}
}

func send(transport http.RoundTripper, req *http.Request) error {
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	fmt.Println(res.StatusCode, string(body))
	return err
}
