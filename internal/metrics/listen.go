package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/listen"
)

// Listen makes the socket at addr: "127.0.0.1:9464", "[::1]:9464",
// "localhost:9464" (which is 127.0.0.1, whatever a resolver says), or
// "unix:PATH". Port 0 lets the kernel choose.
//
// Every other address is refused: the numbers tell how much the key is used, and
// who may read them across a network is for a proxy in front of this to decide.
// Over TCP every user of this host may read them. A unix socket is made as
// [listen.Unix] makes it, with mode 0660 and our group: a dead one of ours is
// replaced, and one that lives is an error.
func Listen(addr string) (net.Listener, error) {
	at, err := parse(addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on --metrics %s: %w", addr, err)
	}
	if at.network == "unix" {
		l, err := listen.Unix(listen.UnixConfig{Path: at.name, Groups: []uint32{uint32(os.Getegid())}})
		if err != nil {
			return nil, fmt.Errorf("--metrics: %w", err)
		}
		return l, nil
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // as in package listen: Landlock overlooks it
	l, err := lc.Listen(context.Background(), at.network, at.name)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on --metrics %s: %w; choose another port, or 0 for a free one", addr, err)
	}
	return l, nil
}

// address is where a listener is, as net wants it.
type address struct{ network, name string }

const want = "use 127.0.0.1:PORT, [::1]:PORT or unix:PATH"

var (
	errForm  = errors.New("it is no address with a port; " + want)
	errWorld = errors.New("it is no loopback address, and whoever can reach it could read the numbers; " + want)
)

// parse reads an address of this host's own.
func parse(addr string) (address, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if path == "" {
			return address{}, errors.New("the path is empty; name a file for the socket, as in unix:/run/responses-api-proxy/metrics.sock")
		}
		return address{"unix", path}, nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return address{}, errForm
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return address{}, errForm
	}
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if ip = ip.Unmap(); err != nil || !ip.IsLoopback() || ip.Zone() != "" {
		return address{}, errWorld
	}
	network := "tcp6"
	if ip.Is4() {
		network = "tcp4"
	}
	return address{network, net.JoinHostPort(ip.String(), port)}, nil
}
