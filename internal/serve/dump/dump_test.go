package dump

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

const patience = 30 * time.Second

// mustOpen opens a directory, by default a temporary one, for max bytes, by default 1 GiB.
func mustOpen(t testing.TB, cfg config) *Dir {
	t.Helper()
	d, start := stalled(t, cfg)
	start()
	t.Cleanup(d.Close)
	return d
}

type config struct {
	dir    string
	max    int64
	report func(error)
}

// stalled opens a Dir whose disk blocks until resume.
func stalled(t testing.TB, cfg config) (d *Dir, resume func()) {
	t.Helper()
	if cfg.dir == "" {
		cfg.dir = filepath.Join(t.TempDir(), "dumps")
	}
	if cfg.report == nil {
		cfg.report = func(error) {}
	}
	d, err := prepare(cfg.dir, -1, cfg.report, cmp.Or(cfg.max, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	return d, func() { go d.write() }
}

// exchange is the dump of a request and of its response.
type exchange struct{ request, response *File }

func (e *exchange) Request(p []byte) { e.request.Write(p) }

func (e *exchange) RequestEnd(complete bool) { e.request.End(complete) }

func (e *exchange) Answer(status int, fields []http1.Field) {
	e.response = e.request.Response(status, fields)
}

func (e *exchange) Body(p []byte) { e.response.Write(p) }

// End ends both, as the relay does.
func (e *exchange) End() {
	e.request.End(false)
	e.response.End(true)
}

func fields(lines ...string) (all []http1.Field) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		all = append(all, http1.Field{Name: []byte(name), Value: []byte(value)})
	}
	return all
}

func post(d *Dir, lines ...string) *exchange {
	return &exchange{request: d.Request([]byte("POST"), []byte("/v1/responses"), fields(lines...))}
}

// whole dumps a complete exchange.
func whole(d *Dir, request, answer string) *exchange {
	e := post(d, "Host: h")
	e.Request([]byte(request))
	e.RequestEnd(true)
	e.Answer(200, fields("Content-Type: text/plain"))
	e.Body([]byte(answer))
	e.End()
	return e
}

// names lists the directory, hidden files included, without the times.
func names(t testing.TB, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, regexp.MustCompile(`-\d{13}-`).ReplaceAllString(e.Name(), "-MS-"))
	}
	return all
}

func wantNames(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the directory has %q, want %q", got, want)
	}
}

// read returns the only file of its kind.
func read(t testing.TB, dir, pattern string) []byte {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", pattern, found, err)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	d := mustOpen(t, config{dir: dir})
	before := time.Now().UnixMilli()
	e := post(d, "Host: localhost:1", "AUTHORIZATION: Bearer sk-client", "X-B: \"é\xff", "Content-Type: application/json")
	e.Request([]byte(`{"b":1.50,"a":[],"b":{"c":`))
	e.Request([]byte(`[1e3,"x"]}}`))
	e.RequestEnd(true)
	e.Answer(201, fields("Content-Type: text/event-stream", "Set-Cookie: s=1", "Content-Length: 3"))
	e.Body([]byte("event: a\n"))
	e.Body([]byte("data: {}\n\n"))
	e.End()
	post(d).End()
	d.Close()

	wantNames(t, dir, "000001-MS-request.json", "000001-MS-response.json", "000002-MS-request.json")
	var at int64
	if fmt.Sscanf(e.request.name, "000001-%d-", &at); at < before || at > time.Now().UnixMilli() {
		t.Errorf("the time in the name is %d", at)
	}
	if got := string(read(t, dir, "000001-*-request.json")); got != wantRequest {
		t.Errorf("got:\n%s\nwant:\n%s", got, wantRequest)
	}
	if got := string(read(t, dir, "000001-*-response.json")); got != wantAnswer {
		t.Errorf("got:\n%s\nwant:\n%s", got, wantAnswer)
	}
	if got := string(read(t, dir, "000002-*-request.json")); got != wantEmpty {
		t.Errorf("got:\n%s\nwant:\n%s", got, wantEmpty)
	}
	if lost(d) != 0 {
		t.Errorf("%d are lost", lost(d))
	}
}

const (
	wantRequest = `{
  "method": "POST",
  "url": "/v1/responses",
  "headers": [
    {
      "name": "Host",
      "value": "localhost:1"
    },
    {
      "name": "AUTHORIZATION",
      "value": "[REDACTED]"
    },
    {
      "name": "X-B",
      "value": "\"é` + "\ufffd" + `"
    },
    {
      "name": "Content-Type",
      "value": "application/json"
    }
  ],
  "body": {
    "b": 1.50,
    "a": [],
    "b": {
      "c": [
        1e3,
        "x"
      ]
    }
  }
}
`
	wantAnswer = `{
  "status": 201,
  "headers": [
    {
      "name": "content-type",
      "value": "text/event-stream"
    },
    {
      "name": "set-cookie",
      "value": "[REDACTED]"
    },
    {
      "name": "content-length",
      "value": "3"
    }
  ],
  "body": "event: a\ndata: {}\n\n"
}
`
	wantEmpty = `{
  "method": "POST",
  "url": "/v1/responses",
  "headers": [],
  "body": "",
  "truncated": true
}
`
)

// TestOrder: calls may come in any order, and be omitted.
func TestOrder(t *testing.T) {
	const request, answer = "000001-MS-request.json", "000001-MS-response.json"
	p := []byte("p")
	for name, c := range map[string]struct {
		calls     func(e *exchange)
		want      []string
		truncated bool // the request
		body      string
	}{
		"upstream failed":     {func(e *exchange) { e.Request(p); e.RequestEnd(true) }, []string{request}, false, "p"},
		"client left":         {func(e *exchange) { e.Request(p); e.RequestEnd(false) }, []string{request}, true, "p"},
		"ended as incomplete": {func(e *exchange) { e.Request(p) }, []string{request}, true, "p"},
		"no body":             {func(e *exchange) { e.RequestEnd(true) }, []string{request}, false, ""},
		"early answer":        {func(e *exchange) { e.Answer(200, nil); e.Body(p); e.Request(p) }, []string{request, answer}, true, "p"},
		"body first":          {func(e *exchange) { e.Body(p); e.RequestEnd(true) }, []string{request}, false, ""},
		"after its end":       {func(e *exchange) { e.RequestEnd(true); e.Request(p); e.RequestEnd(false) }, []string{request}, false, ""},
		"after the end":       {func(e *exchange) { e.Answer(200, nil); e.End(); e.Request(p); e.Body(p); e.End() }, []string{request, answer}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			d := mustOpen(t, config{dir: dir})
			e := post(d)
			c.calls(e)
			e.End()
			d.Close()
			wantNames(t, dir, c.want...)
			var got struct {
				Body      string
				Truncated bool
			}
			if err := json.Unmarshal(read(t, dir, "*-request.json"), &got); err != nil {
				t.Fatal(err)
			}
			if got.Body != c.body || got.Truncated != c.truncated {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestNil(t *testing.T) {
	var d *Dir
	if e := whole(d, "a", "b"); e.request != nil || e.response != nil {
		t.Error("a nil Dir dumps")
	}
	d.Close()
}

func TestBeginAfterClose(t *testing.T) {
	d := mustOpen(t, config{})
	d.Close()
	if post(d).request != nil || lost(d) != 0 {
		t.Error("a dump was begun, or lost")
	}
	d.Close()
}

// TestNotEnded: a dump that was not ended before Close is no file, and the next Open removes what there is of it.
func TestNotEnded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, config{dir: dir})
	e := post(d)
	e.Request([]byte("x"))
	d.Close()
	e.Request([]byte("y"))
	e.RequestEnd(true)
	if e.Answer(200, nil); e.response != nil {
		t.Error("a response is dumped after Close")
	}
	wantNames(t, dir, ".000001-MS-request.json.part")
	mustOpen(t, config{dir: dir}).Close()
	wantNames(t, dir)
}

// TestKeepsNothing: callers may reuse their buffers at once.
func TestKeepsNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d, resume := stalled(t, config{dir: dir})
	head, piece := []byte("Host: abc"), []byte("body")
	e := &exchange{request: d.Request(head[:4], head[:4], []http1.Field{{Name: head[:4], Value: head[6:]}})}
	e.Request(piece)
	clear(head)
	clear(piece)
	e.RequestEnd(true)
	resume()
	e.End()
	d.Close()
	if got := read(t, dir, "*-request.json"); !bytes.Contains(got, []byte(`"abc"`)) || !bytes.Contains(got, []byte(`"body": "body"`)) {
		t.Errorf("%s", got)
	}
}

// FuzzBody: for any body and any split, the file is JSON, and its body is the same value, or the text as a string.
func FuzzBody(f *testing.F) {
	f.Add([]byte(`{"a":[1.50,-0,1e3,123456789012345678901234567890],"a":"\u00e9 é"}`), 5, true)
	f.Add([]byte("event: a\ndata: \xff\xe2\x82\n\n"), 3, false)
	f.Add(bytes.Repeat([]byte("[1,"), 100), 1000, true)
	f.Add(append(bytes.Repeat([]byte("é"), 40000), '"'), 32767, true)
	f.Fuzz(func(t *testing.T, body []byte, step int, complete bool) {
		dir := filepath.Join(t.TempDir(), "d")
		d := mustOpen(t, config{dir: dir})
		e := post(d)
		for p, i := body, 1; len(p) > 0; i++ {
			n := min(max(1, step), len(p))
			e.Request(p[:n])
			p = p[n:]
			if i%1000 == 0 {
				drain(d)
			}
		}
		e.RequestEnd(complete)
		e.End()
		d.Close()
		checkBody(t, read(t, dir, "*"), body, complete)
	})
}

func checkBody(t *testing.T, file, body []byte, complete bool) {
	t.Helper()
	var got struct {
		Body      json.RawMessage
		Truncated bool
	}
	if err := json.Unmarshal(file, &got); err != nil || !utf8.Valid(file) {
		t.Fatalf("%v: %q", err, file)
	}
	if got.Truncated == complete {
		t.Errorf("truncated is %t", got.Truncated)
	}
	var want, have bytes.Buffer
	if utf8.Valid(body) && json.Compact(&want, body) == nil && json.Compact(&have, got.Body) == nil && bytes.Equal(want.Bytes(), have.Bytes()) {
		return
	}
	embeds := json.Valid(body) && utf8.Valid(body) && depth(body) <= maxDepth && len(body) < 100
	var text string
	if err := json.Unmarshal(got.Body, &text); err != nil || embeds || text != string([]rune(string(body))) {
		t.Errorf("body %q became %q (%v)", body, got.Body, err)
	}
}

// TestGrowth: indentation must not be a way to fill the disk.
func TestGrowth(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, config{dir: dir})
	body := strings.Repeat("[", 100) + strings.Repeat("1,", 20000) + "1" + strings.Repeat("]", 100)
	whole(d, body, "")
	d.Close()
	text := read(t, dir, "*-request.json")
	if len(text) > 2*len(body) || !bytes.Contains(text, []byte(`"body": "[[[`)) {
		t.Errorf("%d bytes became %d", len(body), len(text))
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, config{dir: dir})
	whole(d, "a", "b")
	d.Close()
	want := map[string]fs.FileMode{dir: 0o700}
	for _, name := range []string{"request", "response"} {
		found, _ := filepath.Glob(filepath.Join(dir, "*"+name+".json"))
		want[found[0]] = 0o600
	}
	for path, mode := range want {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestLeftovers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	strange := []string{
		"x.json", ".x.part", "000001-5-request.json.part", ".000001-5-request.json", ".1-5-request.json.part",
		"1-5-request.json", "000001-5-other.json", "000001-05-request.json", "0000001-5-request.json", "000000-5-request.json",
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(strange, ".000001-5-request.json.part", ".000001-5-response.json.part") {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 9000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "000009-5-request.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := mustOpen(t, config{dir: dir, max: 1})
	d.Close()
	want := append(strange, "000009-5-request.json")
	slices.Sort(want)
	wantNames(t, dir, want...)
}

// TestOldestFirst: the dumps of earlier runs are removed first, in their order.
func TestOldestFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, second := range map[string]int64{
		"000002-7-request.json": 7, "000001-9-request.json": 9, "000001-7-request.json": 6, "000001-8-response.json": 8, "other": 0,
	} {
		name, at := filepath.Join(dir, name), time.Unix(second, 0)
		if err := errors.Join(os.WriteFile(name, make([]byte, 4097), 0o600), os.Chtimes(name, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	d := mustOpen(t, config{dir: dir, max: 8 * 4096})
	wantNames(t, dir, "000001-7-request.json", "000001-8-response.json", "000001-9-request.json", "000002-7-request.json", "other")
	// The quota is full. A small dump takes two blocks until it is complete.
	e := post(d)
	e.RequestEnd(true)
	e.End()
	d.Close()
	wantNames(t, dir, "000001-MS-request.json", "000001-8-response.json", "000001-9-request.json", "000002-7-request.json", "other")
	if lost(d) != 0 {
		t.Errorf("%d are lost", lost(d))
	}
	// A lower limit holds at once.
	mustOpen(t, config{dir: dir, max: 3 * 4096}).Close()
	wantNames(t, dir, "000001-MS-request.json", "000001-9-request.json", "other")
}

func TestLimitHolds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, config{dir: dir, max: 64 << 10})
	for range 50 {
		e := whole(d, strings.Repeat("a", 5000), strings.Repeat("b", 3000))
		if err := await(d, e.response); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	var sum int64
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		sum += blocks(info.Size())
	}
	if err != nil || sum > 64<<10 || sum < 32<<10 || sum != d.used {
		t.Errorf("%d bytes are there, %d counted, %v", sum, d.used, err)
	}
	read(t, dir, "000050-*-response.json") // the newest is there
}

// TestTooLarge: a dump without space is removed, reported and counted.
func TestTooLarge(t *testing.T) {
	for name, body := range map[string]string{"text": "x" + strings.Repeat("\x00", 200<<10), "JSON": `"` + strings.Repeat("a", 60<<10) + `"`} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			reports := make(chan error, 1)
			d := mustOpen(t, config{dir: dir, max: 50 << 10, report: func(err error) { reports <- err }})
			e := post(d)
			e.Request([]byte(body))
			e.RequestEnd(true)
			e.End()
			wantReport(t, reports, "000001-", "limit")
			d.Close()
			wantNames(t, dir)
			if lost(d) != 1 || d.used != 0 {
				t.Errorf("%d are lost, %d bytes are counted", lost(d), d.used)
			}
		})
	}
}

func wantReport(t *testing.T, reports <-chan error, words ...string) {
	t.Helper()
	select {
	case err := <-reports:
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("the report %q does not have %q", err, w)
			}
		}
	case <-time.After(patience):
		t.Fatal("nothing was reported")
	}
}

// TestStalledDisk: a blocked writer does not block callers; the dump is truncated, and that is reported while the disk
// is still blocked.
func TestStalledDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	reports := make(chan error, 1)
	d, resume := stalled(t, config{dir: dir, report: func(err error) { reports <- err }})
	d.closeTime = patience // however slow the machine
	e := post(d)
	piece := bytes.Repeat([]byte("0123456789abcdef"), 2048)
	const pieces = 200 // 6.5 MB
	for range pieces {
		e.Request(piece)
	}
	e.RequestEnd(true)
	wantReport(t, reports, "000001-", "request.json", "slower", "truncated")
	if d.queued > maxOfOne || e.request.queued > maxOfOne {
		t.Errorf("%d bytes are queued", d.queued)
	}
	other := whole(d, "small", "answer") // still has space
	var crowd []*exchange
	for range 30 {
		x := post(d)
		x.Request(make([]byte, 1<<20))
		crowd = append(crowd, x)
	}
	if d.queued > maxQueued || lost(d) < 15 {
		t.Errorf("%d bytes are queued, %d files are lost", d.queued, lost(d))
	}
	resume()
	for _, x := range crowd {
		x.RequestEnd(true)
		x.End()
	}
	e.End()
	d.Close()

	var got struct {
		Body      string
		Truncated bool
	}
	if err := json.Unmarshal(read(t, dir, "000001-*-request.json"), &got); err != nil {
		t.Fatal(err)
	}
	if !got.Truncated || len(got.Body) < maxOfOne-10*len(piece) || !strings.HasPrefix(strings.Repeat(string(piece), pieces), got.Body) {
		t.Errorf("%d bytes, truncated %t", len(got.Body), got.Truncated)
	}
	if text := read(t, dir, other.response.name); !bytes.Contains(text, []byte(`"answer"`)) {
		t.Errorf("%s", text)
	}
	wantEmptyQueue(t, d)
	if e.request.queued != 0 {
		t.Errorf("%d bytes of a message are queued", e.request.queued)
	}
}

// wantEmptyQueue checks that all space is released.
func wantEmptyQueue(t *testing.T, d *Dir) {
	t.Helper()
	used := int64(0)
	for _, f := range d.finished {
		used += f.size
	}
	if d.queued != 0 || d.used != used {
		t.Errorf("%d bytes are queued, %d of the limit are used by files of %d bytes", d.queued, d.used, used)
	}
	if len(d.pieces) != 0 {
		t.Errorf("%d pieces are left", len(d.pieces))
	}
}

// TestHungDisk: Close returns although the disk is blocked.
func TestHungDisk(t *testing.T) {
	reports := make(chan error, 2)
	d, resume := stalled(t, config{dir: filepath.Join(t.TempDir(), "d"), report: func(err error) { reports <- err }})
	d.closeTime = time.Millisecond
	whole(d, "a", "b")
	d.Close()
	wantReport(t, reports, "within 1ms")
	resume()
	<-d.idle
	d.files.Close()
}

// TestOneReport: the first loss is reported at once, the number of all of them at the end.
func TestOneReport(t *testing.T) {
	reports := make(chan error, 9)
	d := mustOpen(t, config{report: func(err error) { reports <- err }})
	d.mu.Lock()
	for i := range 1000 {
		f := &File{dir: d, name: fmt.Sprintf("%06d-1-request.json", i+1)}
		f.recordLoss(&os.PathError{Op: "open", Path: "secret-folder", Err: errors.New("no room")})
		f.recordLoss(errors.New("the same again"))
	}
	d.mu.Unlock()
	d.Close()
	for _, want := range []string{
		"cannot dump 000001-1-request.json: no room; more losses are only counted", "1000 dumps are missing or truncated",
	} {
		if got := <-reports; got.Error() != want {
			t.Errorf("reported %q, want %q", got, want)
		}
	}
	if len(reports) > 0 {
		t.Errorf("reported %q too", <-reports)
	}
}

// TestConcurrent: concurrent exchanges, whose halves overlap, are not mixed up.
func TestConcurrent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, config{dir: dir})
	const exchanges, pieces = 40, 100
	var all sync.WaitGroup
	for i := range exchanges {
		e := post(d, fmt.Sprintf("X-I: %d", i))
		piece := fmt.Appendf(nil, "%03d,", i)
		halves := new(sync.WaitGroup)
		halves.Go(func() {
			for range pieces {
				e.Request(piece)
			}
			e.RequestEnd(true)
		})
		halves.Go(func() {
			e.Answer(200+i, nil)
			for range pieces {
				e.Body(piece)
			}
		})
		all.Go(func() { halves.Wait(); e.End() })
	}
	all.Wait()
	d.Close()
	seen := map[string]int{}
	for _, name := range names(t, dir) {
		var got struct {
			Status    int
			Headers   []struct{ Value string }
			Body      string
			Truncated bool
		}
		text := read(t, dir, strings.Replace(name, "MS", "*", 1))
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		i := got.Status - 200
		if got.Status == 0 {
			fmt.Sscan(got.Headers[0].Value, &i)
		}
		if got.Truncated || got.Body != strings.Repeat(fmt.Sprintf("%03d,", i), pieces) {
			t.Errorf("%s: %s", name, text)
		}
		seen[name[:6]]++
	}
	if len(seen) != exchanges || lost(d) != 0 {
		t.Errorf("%d exchanges are there, %d files are lost", len(seen), lost(d))
	}
	for prefix, files := range seen {
		if files != 2 {
			t.Errorf("%s has %d files", prefix, files)
		}
	}
}

// TestSmallPieces: a body that may be JSON is buffered as a whole, however small its pieces are.
func TestSmallPieces(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, config{dir: dir})
	e := post(d)
	body := []byte("[" + strings.Repeat(`"0123456789",`, 40_000) + "0]")
	for i := 0; i < len(body); i += 10 {
		e.Request(body[i:min(i+10, len(body))])
		if i%10_000 == 0 {
			drain(d)
		}
	}
	e.RequestEnd(true)
	e.End()
	d.Close()
	if text := read(t, dir, "*-request.json"); !json.Valid(text) || !bytes.Contains(text, []byte("\"body\": [\n    \"0123456789\",\n")) || bytes.Contains(text, []byte("truncated")) {
		t.Errorf("%d bytes: %.300s", len(text), text)
	}
	if lost(d) != 0 {
		t.Errorf("%d are lost", lost(d))
	}
	wantEmptyQueue(t, d)
}

// TestPieces: pieces of both bodies in turns are written together, however characters are split.
func TestPieces(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, config{dir: dir})
	text := []byte(strings.Repeat("é世😀\xff\"", 5000))
	var all []*exchange
	for range 3 {
		all = append(all, post(d))
	}
	for i, sent := 0, make([]int, len(all)); i < 20000; i++ {
		k := i * 7 % len(all)
		n := min(1+i*i%97, len(text)-sent[k])
		all[k].Request(text[sent[k] : sent[k]+n])
		sent[k] += n
		if i%1000 == 0 {
			drain(d)
		}
	}
	for _, e := range all {
		e.RequestEnd(true)
		e.End()
	}
	d.Close()
	for _, e := range all {
		var got struct{ Body string }
		if err := json.Unmarshal(read(t, dir, e.request.name), &got); err != nil || got.Body != string([]rune(string(text))) {
			t.Errorf("%s: %d bytes of %d, %v", e.request.name, len(got.Body), len(text), err)
		}
	}
	if lost(d) != 0 {
		t.Errorf("%d are lost", lost(d))
	}
}

// BenchmarkPiece measures the cost of a piece of a body for its caller and for the queue, without the disk.
func BenchmarkPiece(b *testing.B) {
	for _, size := range []int{200, 32 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			d, _ := stalled(b, config{dir: filepath.Join(b.TempDir(), "d")})
			e := post(d)
			p := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				e.Request(p)
				for d.queued > 64<<10 {
					next := <-d.pieces
					next.queued -= len(next.data) + pieceCost
					d.queued -= len(next.data) + pieceCost
				}
			}
			if lost(d) > 0 {
				b.Error("the pieces were lost")
			}
		})
	}
}

// lost returns the number of losses.
func lost(d *Dir) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}

// drain waits until the writer has processed all pieces.
func drain(d *Dir) {
	for {
		if len(d.pieces) == 0 {
			return
		}
		runtime.Gosched()
	}
}

// await waits until a message is a file.
func await(d *Dir, m *File) error {
	for end := time.Now().Add(patience); ; runtime.Gosched() {
		all, err := d.files.List()
		if err != nil || slices.ContainsFunc(all, func(e fs.DirEntry) bool { return e.Name() == m.name }) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited in vain for %s", m.name)
		}
	}
}
