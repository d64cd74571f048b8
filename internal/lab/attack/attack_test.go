package attack

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestCommandLine: an invalid command line is reported, with exit code 2 and nothing on standard output.
func TestCommandLine(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		args, stdin, says string
	}{
		{"", "", "give one of --server-info"},
		{"--port 1 --socket x", "", "give one of --server-info"},
		{"--port 1 --server-info x", "", "give one of --server-info"},
		{"--pid 1", "", "give one of --server-info"},
		{"--port 1 --test-instance", "", "give one of --server-info"},
		{"--test-instance --pid 1", "", "omit --pid and --key-stdin"},
		{"--test-instance --key-stdin", "", "omit --pid and --key-stdin"},
		{"--port 1 --proxy x", "", "--proxy goes with --test-instance"},
		{"--test-instance --proxy /no/such/program", "", "cannot start the proxy"},
		{"--port 0", "", "a number from 1 to 65535"},
		{"--port 65536", "", "a number from 1 to 65535"},
		{"--port abc", "", "a number from 1 to 65535"},
		{"--port 1 --pid -1", "", "the number of a process is needed"},
		{"--bogus", "", "not defined: --bogus"},
		{"--port 1 extra", "", "unexpected argument; "},
		{"--port 1 --spend=maybe", "", "this flag takes no value"},
		{"--server-info " + filepath.Join(dir, "none"), "", "cannot find the proxy by --server-info"},
		{"--server-info " + file("empty", ""), "", "cannot find the proxy by --server-info"},
		{"--server-info " + file("wrong", `{"port":0,"pid":1}`), "", "no port and pid in it"},
		{"--server-info " + file("text", `hello`), "", "cannot find the proxy by --server-info"},
		{"--socket " + filepath.Join(dir, "none"), "", "cannot reach the proxy"},
		{"--port " + port + " --key-stdin", "short\n" + strings.Repeat("x", 100), "has 5 characters"},
		{"--port " + port + " --key-stdin", "", "has 0 characters"},
		{"--port " + port + " --key-stdin", strings.Repeat("x", 5000), "has 4096 characters"},
	} {
		var out, errs bytes.Buffer
		code := Run(strings.Fields(c.args), strings.NewReader(c.stdin), &out, &errs)
		if code != 2 || out.Len() > 0 || !strings.Contains(errs.String(), c.says) {
			t.Errorf("%q: %d, %q, %q; want %q", c.args, code, out.String(), errs.String(), c.says)
		}
		if strings.Contains(errs.String(), "xxxx") {
			t.Errorf("%q repeats the key: %s", c.args, errs.String())
		}
	}
}

func TestStalePID(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has /proc")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var out, errs bytes.Buffer
	code := Run([]string{"--port", strconv.Itoa(ln.Addr().(*net.TCPAddr).Port), "--pid", "1073741824"}, nil, &out, &errs)
	if code != 2 || !strings.Contains(errs.String(), "there is no process") {
		t.Errorf("%d, %q", code, errs.String())
	}
}

func TestUsage(t *testing.T) {
	for _, flag := range []string{"-h", "--help"} {
		var out, errs bytes.Buffer
		if code := Run([]string{flag}, nil, &out, &errs); code != 0 || out.String() != Usage || errs.Len() > 0 {
			t.Errorf("%s: %d, %q", flag, code, errs.String())
		}
	}
	for line := range strings.Lines(Usage) {
		if len([]rune(line)) > 81 {
			t.Errorf("too long: %s", line)
		}
	}
	if strings.Contains(Usage, childCommand) {
		t.Error("the usage text contains internal options")
	}
}

// TestVerdict: which responses are refusals and which are successful attacks.
func TestVerdict(t *testing.T) {
	json := func(code string) string {
		return `{"error":{"message":"m","type":"t","param":null,"code":` + code + `}}`
	}
	for _, c := range []struct {
		want       result
		head, body string
	}{
		// Refused by the proxy, ours or another.
		{pass, "403 Forbidden", json(`"browser_not_allowed"`)},
		{skipped, "403 Forbidden", json(`"user_not_allowed"`)}, // refused for the user, whatever the request
		{fail, "404 Not Found", json(`"response_not_found"`)},  // the route is open
		{pass, "426 Upgrade Required", json(`"websocket_not_supported"`)},
		{pass, "400 Bad Request", json(`"malformed_request"`)},
		{pass, "501 Not Implemented", json(`"malformed_request"`)},
		{pass, "403 Forbidden", ""},
		{pass, "400 Bad Request", "400 Bad Request"},
		{pass, "501 Not Implemented", ""},
		{pass, "505 HTTP Version Not Supported", ""},
		// Forwarded, as the response shows.
		{fail, "200 OK", ""},
		{fail, "204 No Content", ""},
		{fail, "101 Switching Protocols\r\nConnection: upgrade", ""},
		{fail, "302 Found\r\nLocation: /", ""},
		{fail, "400 Bad Request\r\nX-Request-Id: r", ""},
		{fail, "401 Unauthorized\r\nopenai-processing-ms: 1", ""},
		{fail, "403 Forbidden\r\nCF-RAY: r", json(`"browser_not_allowed"`)},
		{fail, "400 Bad Request", json(`null`)},
		{fail, "401 Unauthorized", json(`"invalid_api_key"`)},
		// Accepted, and failed upstream.
		{fail, "502 Bad Gateway", json(`"upstream_unreachable"`)},
		{fail, "502 Bad Gateway", ""},
		{fail, "500 Internal Server Error", ""},
		{fail, "429 Too Many Requests", json(`"rate_limited"`)},
		{fail, "400 Bad Request", json(`"incomplete_body"`)},
		// Refused, but pages may read the response.
		{fail, "403 Forbidden\r\nAccess-Control-Allow-Origin: *", ""},
		{skipped, "429 Too Many Requests", json(`"too_many_connections"`)},
	} {
		raw := "HTTP/1.1 " + c.head + "\r\nContent-Length: " + strconv.Itoa(len(c.body)) + "\r\n\r\n" + c.body
		if strings.HasPrefix(c.head, "101") || strings.HasPrefix(c.head, "204") {
			raw = "HTTP/1.1 " + c.head + "\r\n\r\n"
		}
		a := receive(bufio.NewReader(strings.NewReader(raw)), "POST")
		if got, text := verdict([]response{a}); got != c.want || text == "" {
			t.Errorf("%q %s: %s, %q; want %s", c.head, c.body, got, text, c.want)
		}
		refusal := response{Response: &http.Response{StatusCode: 400, Header: http.Header{}}}
		if got, _ := verdict([]response{refusal, a}); c.want == fail && got != fail {
			t.Errorf("%q behind a refusal: %s", c.head, got)
		}
	}
	for _, c := range []struct {
		want result
		a    response
	}{{pass, response{}}, {info, response{err: errNoResponse}}, {info, response{err: errNotHTTP}}, {skipped, response{err: os.ErrPermission}}} {
		if got, _ := verdict([]response{c.a}); got != c.want {
			t.Errorf("%v: %s, want %s", c.a.err, got, c.want)
		}
	}
}

// TestAttacksCostNothing: no attack has a valid JSON body.
func TestAttacksCostNothing(t *testing.T) {
	tgt := &target{options: &options{port: 1234}}
	for _, a := range tgt.attacks() {
		for _, raw := range a.requests {
			if strings.ContainsAny(raw, "}\"") || strings.Contains(strings.ToLower(raw), "authorization") {
				t.Errorf("%s: %q", a.name, raw)
			}
		}
		if len(a.requests) == 0 || a.name == "" || a.proves == "" {
			t.Errorf("incomplete: %+v", a)
		}
	}
}

// TestTokens: strings with and without the form of a key.
func TestTokens(t *testing.T) {
	const key = "sk-proj-a1B2c3D4e5F6g7H8i9J0k"
	const other = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiIxIn0"
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{key, []string{"sk-pro… (29 characters)"}},
		{"x=" + key + "\n" + key, []string{"sk-pro… (29 characters)", "sk-pro… (29 characters)"}},
		{"authorization: Bearer " + key, []string{"sk-pro… (29 characters)"}},
		{"authorization: Bearer " + other, []string{"eyJhbG… (50 characters)"}},
		{"authorization: Bearer " + other[:39], nil},
		{"task-a1B2c3D4e5F6g7H8i9J0k", nil},
		{"sk-a1B2c3D4e5F6g7H8", nil},
		{"sk-" + strings.Repeat("x", 100), nil},
		{"sk-" + strings.Repeat("\x00", 100), nil},
		{"sk-abcdefghijklmnopqrstuvwxyz", nil},
		{"Bearer xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", nil},
	} {
		if got := findTokens([]byte(c.text), 1<<20); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
	if text := listTokens([]token{{"sk-abc", 9}, {"sk-abc", 9}, {"b", 1}}); text != "3 in the form of a key: sk-abc… (9 characters), b… (1 characters)" {
		t.Error(text)
	}
}

// findTokens passes p to a scanner in pieces.
func findTokens(p []byte, size int) (found []string) {
	var s tokenScanner
	for piece := range slices.Chunk(p, size) {
		s.feed(piece)
	}
	s.flush()
	for _, f := range s.found {
		found = append(found, f.String())
	}
	slices.Sort(found)
	return found
}

// FuzzTokens: the result does not depend on the pieces, and contains only the beginning of a token.
func FuzzTokens(f *testing.F) {
	const key = "sk-proj-a1B2c3D4e5F6g7H8i9J0k"
	f.Add([]byte(strings.Repeat("-", 3000)+" "+key+" "+strings.Repeat("ab ", 1000)), uint16(7))
	f.Add([]byte("Bearer "+key+key+" Bearer a.b/c+d=efghij0123456789klmnopqrstuvwxyzABCDEF"), uint16(0))
	f.Add([]byte(strings.Repeat(key, 200)), uint16(100))
	f.Add([]byte(strings.Repeat(key, 200)), uint16(0))
	f.Fuzz(func(t *testing.T, p []byte, size uint16) {
		whole, pieces := findTokens(p, len(p)+1), findTokens(p, int(size)+1)
		if !slices.Equal(whole, pieces) {
			t.Errorf("%q, in pieces of %d: %q", whole, size+1, pieces)
		}
	})
}

// TestLastLine: the report does not claim more than was tried.
func TestLastLine(t *testing.T) {
	for want, results := range map[string][]result{
		"✓ nothing was stolen or spent\n":                                             {pass, info, rootCan},
		"✓ nothing was stolen or spent by 2 of 3 attempts; the others were skipped\n": {pass, skipped, info},
		"✗ failed:\n  c\n": {pass, skipped, fail},
	} {
		var out bytes.Buffer
		r := newReport(&target{options: &options{port: 1}}, &out)
		for i, x := range results {
			r.add(attempt{name: string(rune('a' + i)), try: func() (result, string) { return x, "" }})
		}
		if _, err := r.end(); err != nil || !strings.HasSuffix(out.String(), "\n"+want) {
			t.Errorf("%v: %v, want %q at the end of\n%s", results, err, want, out.String())
		}
	}
}

func TestRows(t *testing.T) {
	var out bytes.Buffer
	r := &report{w: &out}
	r.row(outcome{Attempt: "a", Detail: strings.Repeat("x", 60), Result: fail, Proves: "not so: nobody can do anything of that kind here"})
	for line := range strings.Lines(out.String()) {
		if len([]rune(line)) > 81 || strings.TrimRight(line, " \n") != strings.TrimSuffix(line, "\n") {
			t.Errorf("%q", line)
		}
	}
	if got := strings.Count(out.String(), "x"); got != 60 {
		t.Errorf("%d of 60 characters in:\n%s", got, out.String())
	}
	for x, want := range map[result]string{pass: "\x1b[32m✓\x1b[0m", fail: "\x1b[31m✗\x1b[0m", skipped: "–"} {
		if got := (&report{color: true}).mark(x); got != want {
			t.Errorf("%s in colour: %q", x, got)
		}
	}
	if isTerminal(&out) {
		t.Error("a buffer is reported as a terminal")
	}
	if got := printable("a\x1b[31m\nb\x9b…é"); got != "a?[31m?b?…?" {
		t.Errorf("%q", got)
	}
}

// TestFiles: which modes allow another user to replace the proxy's files.
func TestFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no modes here")
	}
	dir := filepath.Join(t.TempDir(), "d")
	path := filepath.Join(dir, "f")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file, directory      os.FileMode
		wantFile, wantFolder result
	}{
		{0o600, 0o700, pass, pass},
		{0o644, 0o755, pass, pass},
		{0o664, 0o775, fail, fail},
		{0o602, 0o777, fail, fail},
		{0o444, 0o777 | os.ModeSticky, pass, info},
	} {
		if err := os.Chmod(path, c.file); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, c.directory); err != nil {
			t.Fatal(err)
		}
		if got, text := checkFile(path, 0o022); got != c.wantFile {
			t.Errorf("%v: %s, %s", c.file, got, text)
		}
		if got, text := checkDirectory(path); got != c.wantFolder {
			t.Errorf("%v: %s, %s", c.directory, got, text)
		}
	}
	if got, _ := checkFile(filepath.Join(dir, "none"), 0o022); got != skipped {
		t.Error(got)
	}
}
