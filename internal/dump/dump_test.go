package dump

import (
	"bytes"
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
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

const patience = 30 * time.Second

func mustOpen(t testing.TB, cfg Config) *Dir {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "dumps")
	}
	cfg.Owner = -1
	d, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func fields(lines ...string) (all []http1.Field) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		all = append(all, http1.Field{Name: []byte(name), Value: []byte(value)})
	}
	return all
}

func post(d *Dir, lines ...string) *Exchange { return postAs(d, 0, lines...) }

func postAs(d *Dir, user uint32, lines ...string) *Exchange {
	return d.Begin(user, []byte("POST"), []byte("/v1/responses"), fields(lines...))
}

// stalled opens a Dir whose disk blocks until resume.
func stalled(t testing.TB, cfg Config) (d *Dir, resume func()) {
	t.Helper()
	cfg.Owner = -1
	d, err := prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d, func() { go d.write() }
}

// whole dumps a complete exchange.
func whole(d *Dir, request, answer string) *Exchange {
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
	d := mustOpen(t, Config{Dir: dir})
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
	if e.request.id.time < before || e.request.id.time > time.Now().UnixMilli() {
		t.Errorf("the time in the name is %d", e.request.id.time)
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
	if d.Lost() != 0 {
		t.Errorf("%d are lost", d.Lost())
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
		calls     func(e *Exchange)
		want      []string
		truncated bool // the request
		body      string
	}{
		"upstream failed":       {func(e *Exchange) { e.Request(p); e.RequestEnd(true) }, []string{request}, false, "p"},
		"client left":           {func(e *Exchange) { e.Request(p); e.RequestEnd(false) }, []string{request}, true, "p"},
		"never ended":           {func(e *Exchange) { e.Request(p) }, []string{request}, true, "p"},
		"no body":               {func(e *Exchange) { e.RequestEnd(true) }, []string{request}, false, ""},
		"early answer":          {func(e *Exchange) { e.Answer(200, nil); e.Body(p); e.Request(p) }, []string{request, answer}, true, "p"},
		"body first":            {func(e *Exchange) { e.Body(p); e.RequestEnd(true) }, []string{request}, false, ""},
		"answer twice":          {func(e *Exchange) { e.Answer(200, nil); e.Answer(500, nil); e.RequestEnd(true) }, []string{request, answer}, false, ""},
		"after its end":         {func(e *Exchange) { e.RequestEnd(true); e.Request(p); e.RequestEnd(false) }, []string{request}, false, ""},
		"after the end":         {func(e *Exchange) { e.End(); e.Request(p); e.Answer(200, nil); e.Body(p); e.End() }, []string{request}, true, ""},
		"after the directory's": {func(e *Exchange) { e.request.dir.Close(); e.Request(p); e.RequestEnd(true); e.Answer(200, nil) }, []string{request}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			d := mustOpen(t, Config{Dir: dir})
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
	e := whole(d, "a", "b")
	if e != nil || d.Lost() != 0 {
		t.Error("a nil Dir dumps")
	}
	d.Close()
}

func TestBeginAfterClose(t *testing.T) {
	d := mustOpen(t, Config{})
	d.Close()
	if post(d) != nil || d.Lost() != 0 {
		t.Error("a dump was begun, or lost")
	}
	d.Close()
}

// TestKeepsNothing: callers may reuse their buffers at once.
func TestKeepsNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d, resume := stalled(t, Config{Dir: dir})
	head, piece := []byte("Host: abc"), []byte("body")
	e := d.Begin(0, head[:4], head[:4], []http1.Field{{Name: head[:4], Value: head[6:]}})
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
		d := mustOpen(t, Config{Dir: dir})
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
	d := mustOpen(t, Config{Dir: dir})
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
	d := mustOpen(t, Config{Dir: dir})
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
		"x.json", ".x.part", "000001-5-request.json.part", ".000001-5-request.json", ".1-5-request.json.raw",
		"1-5-request.json", "000001-5-other.json", "000001-05-request.json", "0000001-5-request.json", "000000-5-request.json",
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(strange, ".000001-5-request.json.raw", ".000001-5-response.json.part") {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 9000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "000009-5-request.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := mustOpen(t, Config{Dir: dir, MaxBytes: 1})
	d.Close()
	got := names(t, dir)
	if len(got) != len(strange)+1 {
		t.Errorf("left: %q", got)
	}
	for _, name := range got {
		if isLeftover(name) {
			t.Errorf("%s is still there", name)
		}
	}
}

// TestOldestFirst: the dumps of earlier runs are removed first, in their order.
func TestOldestFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"000002-7-request.json", "000001-9-request.json", "000001-7-request.json", "000001-8-response.json", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 4097), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := mustOpen(t, Config{Dir: dir, MaxBytes: 8 * 4096})
	wantNames(t, dir, "000001-7-request.json", "000001-8-response.json", "000001-9-request.json", "000002-7-request.json", "other")
	// The quota is full. A small dump takes two blocks until it is complete.
	e := post(d)
	e.RequestEnd(true)
	e.End()
	d.Close()
	wantNames(t, dir, "000001-MS-request.json", "000001-8-response.json", "000001-9-request.json", "000002-7-request.json", "other")
	if d.Lost() != 0 {
		t.Errorf("%d are lost", d.Lost())
	}
	// A lower limit holds at once.
	mustOpen(t, Config{Dir: dir, MaxBytes: 3 * 4096}).Close()
	wantNames(t, dir, "000001-MS-request.json", "000001-9-request.json", "other")
}

func TestLimitHolds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, Config{Dir: dir, MaxBytes: 64 << 10})
	for range 50 {
		e := whole(d, strings.Repeat("a", 5000), strings.Repeat("b", 3000))
		if err := await(d, &e.response); err != nil {
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
	if err != nil || sum > 64<<10 || sum < 32<<10 || sum != d.quota.used {
		t.Errorf("%d bytes are there, %d counted, %v", sum, d.quota.used, err)
	}
	read(t, dir, "000050-*-response.json") // the newest is there
}

// TestTooLarge: a dump without space is removed, reported and counted.
func TestTooLarge(t *testing.T) {
	for name, body := range map[string]string{"text": "x" + strings.Repeat("\x00", 200<<10), "JSON": `"` + strings.Repeat("a", 60<<10) + `"`} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			told := make(chan error, 1)
			d := mustOpen(t, Config{Dir: dir, MaxBytes: 100 << 10, Report: func(err error) { told <- err }})
			e := post(d)
			e.Request([]byte(body))
			e.RequestEnd(true)
			e.End()
			wantReport(t, told, "000001-", "limit")
			d.Close()
			wantNames(t, dir)
			if d.Lost() != 1 || d.quota.used != 0 {
				t.Errorf("%d are lost, %d bytes are counted", d.Lost(), d.quota.used)
			}
		})
	}
}

func wantReport(t *testing.T, told <-chan error, words ...string) {
	t.Helper()
	select {
	case err := <-told:
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
	told := make(chan error, 1)
	d, resume := stalled(t, Config{Dir: dir, Report: func(err error) { told <- err }})
	d.closeTime = patience // however slow the machine
	e := post(d)
	piece := bytes.Repeat([]byte("0123456789abcdef"), 2048)
	const pieces = 200 // 6.5 MB
	for range pieces {
		e.Request(piece)
	}
	e.RequestEnd(true)
	wantReport(t, told, "000001-", "request.json", "slower", "truncated")
	if d.queue.used > maxOfOne || e.request.queued > maxOfOne {
		t.Errorf("%d bytes are queued", d.queue.used)
	}
	other := whole(d, "small", "answer") // still has space
	var crowd []*Exchange
	for range 30 {
		x := post(d)
		x.Request(make([]byte, 1<<20))
		crowd = append(crowd, x)
	}
	if d.queue.used > maxQueued || d.Lost() < 15 {
		t.Errorf("%d bytes are queued, %d files are lost", d.queue.used, d.Lost())
	}
	another := postAs(d, 1) // has space again
	another.Request(make([]byte, 1<<20))
	another.RequestEnd(true)
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
	if text := read(t, dir, other.response.id.String()); !bytes.Contains(text, []byte(`"answer"`)) {
		t.Errorf("%s", text)
	}
	if text := read(t, dir, another.request.id.String()); len(text) < 1<<20 || bytes.Contains(text, []byte("truncated")) {
		t.Errorf("of another user's body there are %d bytes", len(text))
	}
	wantEmptyQueue(t, d)
	if e.request.queued != 0 {
		t.Errorf("%d bytes of a message are queued", e.request.queued)
	}
}

// wantEmptyQueue checks that all space is released.
func wantEmptyQueue(t *testing.T, d *Dir) {
	t.Helper()
	for name, s := range map[string]*share{"queue": &d.queue, "files": &d.open, "disk": &d.quota.unfinished} {
		if s.used != 0 || len(s.users) != 0 {
			t.Errorf("the %s: %d are taken at the end, by %v", name, s.used, s.users)
		}
	}
	if len(d.unfinished) != 0 || len(d.pieces) != 0 {
		t.Errorf("%d messages and %d pieces are left", len(d.unfinished), len(d.pieces))
	}
}

// TestHungDisk: Close returns although the disk is blocked.
func TestHungDisk(t *testing.T) {
	told := make(chan error, 2)
	d, resume := stalled(t, Config{Dir: filepath.Join(t.TempDir(), "d"), Report: func(err error) { told <- err }})
	d.closeTime = time.Millisecond
	whole(d, "a", "b")
	d.Close()
	wantReport(t, told, "within 1ms")
	resume()
	<-d.idle
	d.closeFiles()
}

func TestReportsAreRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan string, 9)
		d := &Dir{report: func(err error) { told <- time.Now().Format("05 ") + err.Error() }}
		lose := func(sequence int64) {
			m := &message{id: id{1, sequence, false}}
			d.recordLoss(m, &os.PathError{Op: "open", Path: "secret-folder", Err: errors.New("no room")})
			d.recordLoss(m, errSlow) // the same again
		}
		lose(1)
		synctest.Wait()
		for i := range int64(1000) {
			lose(i + 2)
		}
		time.Sleep(reportPause / 2)
		synctest.Wait()
		if len(told) != 1 {
			t.Errorf("%d reports, want 1 so far", len(told))
		}
		time.Sleep(reportPause / 2)
		synctest.Wait()
		lose(2000)
		lose(2001)
		d.reportLoss() // as Close does
		d.reportLoss() // there is nothing more
		want := []string{
			"00 cannot dump 000001-1-request.json: no room; 1 lost so far",
			"10 cannot dump 002000-1-request.json: no room; 1002 lost so far",
			"10 cannot dump 002001-1-request.json: no room; 1003 lost so far",
		}
		for _, w := range want {
			if got := <-told; got != w {
				t.Errorf("told %q, want %q", got, w)
			}
		}
		if len(told) > 0 {
			t.Errorf("told %q too", <-told)
		}
	})
}

// TestConcurrent: concurrent exchanges, whose halves overlap, are not mixed up.
func TestConcurrent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, Config{Dir: dir})
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
	if len(seen) != exchanges || d.Lost() != 0 {
		t.Errorf("%d exchanges are there, %d files are lost", len(seen), d.Lost())
	}
	for prefix, files := range seen {
		if files != 2 {
			t.Errorf("%s has %d files", prefix, files)
		}
	}
}

// TestManyUnderWay: the number of unfinished files is limited, for each user to the number left to the others.
func TestManyUnderWay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, Config{Dir: dir})
	want := 0
	for user, share := range []int{maxUnfinished / 2, maxUnfinished / 4, maxUnfinished / 8} {
		for range share + 5 {
			postAs(d, uint32(user))
		}
		want += share
	}
	d.Close()
	if got := len(names(t, dir)); got != want || d.Lost() != 15 {
		t.Errorf("%d files, %d lost; want %d, 15", got, d.Lost(), want)
	}
	wantEmptyQueue(t, d)
}

// TestOneUserKeepsNoneOut: whatever one user has begun and dumped, another's exchange is dumped as a whole, and stays.
func TestOneUserKeepsNoneOut(t *testing.T) {
	const max = 8 << 20
	t.Run("under way", func(t *testing.T) {
		d := mustOpen(t, Config{Dir: filepath.Join(t.TempDir(), "d"), MaxBytes: max})
		for range 1000 {
			e := postAs(d, 1)
			e.Request([]byte("x"))
			e.Request(make([]byte, 64<<10)) // six times as much as a string
		}
		e := dumpAs(d, 2, strings.Repeat("y", 1<<20))
		if err := errors.Join(await(d, &e.request), await(d, &e.response)); err != nil {
			t.Error(err)
		}
	})
	t.Run("finished", func(t *testing.T) {
		d := mustOpen(t, Config{Dir: filepath.Join(t.TempDir(), "d"), MaxBytes: max})
		e := dumpAs(d, 2, strings.Repeat("y", 1<<20))
		if err := await(d, &e.response); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			flood := dumpAs(d, 1, strings.Repeat("x", 1<<20))
			if err := await(d, &flood.response); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(await(d, &e.request), await(d, &e.response)); err != nil {
			t.Error(err)
		}
	})
}

// dumpAs dumps a user's exchange.
func dumpAs(d *Dir, user uint32, body string) *Exchange {
	e := postAs(d, user)
	e.Request([]byte(body))
	e.RequestEnd(true)
	e.Answer(200, nil)
	e.End()
	return e
}

// TestSmallPieces: a body that may be JSON is buffered as a whole, however small its pieces are.
func TestSmallPieces(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, Config{Dir: dir})
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
	if d.Lost() != 0 {
		t.Errorf("%d are lost", d.Lost())
	}
	wantEmptyQueue(t, d)
}

// TestPieces: pieces of both bodies in turns are written together, however characters are split.
func TestPieces(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, Config{Dir: dir})
	text := []byte(strings.Repeat("é世😀\xff\"", 5000))
	var all []*Exchange
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
		if err := json.Unmarshal(read(t, dir, e.request.id.String()), &got); err != nil || got.Body != string([]rune(string(text))) {
			t.Errorf("%s: %d bytes of %d, %v", e.request.id, len(got.Body), len(text), err)
		}
	}
	if d.Lost() != 0 {
		t.Errorf("%d are lost", d.Lost())
	}
}

// BenchmarkPiece measures the cost of a piece of a body for its caller and for the queue, without the disk.
func BenchmarkPiece(b *testing.B) {
	for _, size := range []int{200, 32 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			d, _ := stalled(b, Config{Dir: filepath.Join(b.TempDir(), "d")})
			e := post(d)
			p := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				e.Request(p)
				for d.queue.used > 64<<10 {
					next := <-d.pieces
					d.release(next, len(next.data))
				}
			}
			if d.Lost() > 0 {
				b.Error("the pieces were lost")
			}
		})
	}
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
func await(d *Dir, m *message) error {
	for end := time.Now().Add(patience); ; runtime.Gosched() {
		all, err := d.files.List()
		if err != nil || slices.ContainsFunc(all, func(e fs.DirEntry) bool { return e.Name() == m.id.String() }) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited in vain for %s", m.id)
		}
	}
}
