package upstream

import "testing"

func TestParseTarget(t *testing.T) {
	allow := func(raw, addr, host, path string) {
		t.Helper()
		got, err := ParseTarget(raw, false)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
		} else if got.Addr != addr || got.Host != host || got.Path != path {
			t.Errorf("%s: dial %s, host %s, path %s; want %s, %s, %s", raw, got.Addr, got.Host, got.Path, addr, host, path)
		}
	}
	deny := func(raws ...string) {
		t.Helper()
		for _, raw := range raws {
			if got, err := ParseTarget(raw, false); err == nil {
				t.Errorf("%q was accepted as %+v", raw, got)
			}
		}
	}
	allow(DefaultURL, "api.openai.com:443", "api.openai.com", "/v1/responses")
	allow("https://api.openai.com:443/v1/responses", "api.openai.com:443", "api.openai.com", "/v1/responses")
	allow("https://x.openai.azure.com/openai/responses?api-version=2025-04-01-preview&k=v", "x.openai.azure.com:443", "x.openai.azure.com", "/openai/responses?api-version=2025-04-01-preview&k=v")
	allow("https://h:8443/a%20b/c", "h:8443", "h:8443", "/a%20b/c")
	allow("https://h/a b\"é?x=y", "h:443", "h", "/a%20b%22%C3%A9?x=y")
	allow("https://h", "h:443", "h", "/")
	allow("HTTPS://EXAMPLE.com/x", "example.com:443", "example.com", "/x")
	allow("https://bücher.example/x", "xn--bcher-kva.example:443", "xn--bcher-kva.example", "/x")
	allow("http://127.0.0.1:8080/x", "127.0.0.1:8080", "127.0.0.1:8080", "/x")
	allow("http://localhost/x", "localhost:80", "localhost", "/x")
	allow("http://[::1]:8080/x", "[::1]:8080", "[::1]:8080", "/x")
	allow("http://127.8.9.1/x", "127.8.9.1:80", "127.8.9.1", "/x")
	deny("", "api.openai.com/v1/responses", "//127.0.0.1:9/", "http://", "https://", "https:///x", "http:///localhost/q", "https://:443/x",
		"file:///etc/passwd", "data:text/plain,x", "unix:/tmp/x", "ftp://127.0.0.1/x", "ws://127.0.0.1/x",
		"https://u:p@h/x", "https://u@h/x", "https://h/x#frag", "https://h/x#",
		"https://h:99999/x", "https://h:0/x", "https://h:/x", "https://h:abc/x", "https://exa mple.com/", "https://h/\r\nX: y", "https://h/x?a b", "https://h/x?é",
		"https://h\r\nX: y/", "https:h/x",
		"http://api.openai.com/v1/responses", "http://10.0.0.1/x", "http://0.0.0.0/x", "http://localhost.example/x", "http://2130706433/x", "http://[::]/x")
	if _, err := ParseTarget("http://10.0.0.1/x", true); err != nil {
		t.Errorf("--upstream-tls off: %v", err)
	}
	if _, err := ParseTarget("ftp://10.0.0.1/x", true); err == nil {
		t.Error("--upstream-tls off allows ftp")
	}
}

// FuzzParseTarget: an accepted target can be written to the wire unchanged.
func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{DefaultURL, "http://[::1]:8080/x?y=z", "https://h/a%20b", "https://h/\x7f", "https://h/ä"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := ParseTarget(raw, false)
		if err != nil {
			return
		}
		for _, s := range []string{got.Host, got.Addr, got.Path} {
			for _, c := range []byte(s) {
				if c <= ' ' || c >= 0x7f {
					t.Fatalf("%q gives %+v, which has a byte that no request line can have", raw, got)
				}
			}
		}
		if got.Path == "" || got.Path[0] != '/' || !got.TLS && !loopback(got.Name) {
			t.Fatalf("%q gives %+v", raw, got)
		}
	})
}
