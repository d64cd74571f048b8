package audit

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 7_900_000, time.FixedZone("", 3600))

// full has every member of an entry.
func full() *Entry {
	return &Entry{
		Time: noon, Duration: 1234567 * time.Microsecond, FirstByte: 45678 * time.Nanosecond,
		Caller: Caller{UID: 1000, Known: true, PID: 4242, Command: "codex", Unix: true},
		Route:  "responses", Status: 200, Code: "upstream_broke", BytesIn: 5120, BytesOut: 90210, Streamed: true,
		Model: "gpt-5", Tokens: true, InputTokens: 70, OutputTokens: 30,
		RequestID: "req_1", Upstream: true, Reused: true,
	}
}

func TestLine(t *testing.T) {
	for _, c := range []struct {
		name string
		e    *Entry
		want string
	}{
		{"everything", full(), `{"time":"2026-11-23T11:00:00.007Z","duration_ms":1234.567,"first_byte_ms":0.045,"uid":1000,"pid":4242,"command":"codex","transport":"unix",` +
			`"route":"responses","status":200,"code":"upstream_broke","bytes_in":5120,"bytes_out":90210,"streamed":true,"model":"gpt-5","input_tokens":70,"output_tokens":30,"request_id":"req_1","upstream_reused":true}`},
		{"nothing", &Entry{Time: noon}, `{"time":"2026-11-23T11:00:00.007Z","duration_ms":0.000,"transport":"tcp","bytes_in":0,"bytes_out":0,"streamed":false}`},
		{"zeros that are known", &Entry{Time: noon, Caller: Caller{Known: true}, Tokens: true, Upstream: true},
			`{"time":"2026-11-23T11:00:00.007Z","duration_ms":0.000,"uid":0,"transport":"tcp","bytes_in":0,"bytes_out":0,"streamed":false,"input_tokens":0,"output_tokens":0,"upstream_reused":false}`},
		{"what does not count", &Entry{Time: noon, Duration: -time.Second, FirstByte: -1, Caller: Caller{UID: 7}, InputTokens: 7, OutputTokens: 7, Reused: true},
			`{"time":"2026-11-23T11:00:00.007Z","duration_ms":0.000,"transport":"tcp","bytes_in":0,"bytes_out":0,"streamed":false}`},
	} {
		if got := string(c.e.AppendJSON([]byte("before "))); got != "before "+c.want+"\n" {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

func TestTexts(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"plain", "gpt-5 <é> 日本 𝄞", "gpt-5 <é> 日本 𝄞"},
		{"quotes", `a"b\c`, `a\"b\\c`},
		{"a line", "a\nb\r\t\x00", `a\u000ab\u000d\u0009\u0000`},
		{"a terminal's commands", "\x1b[2J\x7f\u0080\u009b", `\u001b[2J\u007f\u0080\u009b`},
		{"line separators", "\u2028\u2029\u0085", `\u2028\u2029\u0085`},
		{"marks of direction", "\u061c\u200e\u200f\u202a\u202e\u2066\u2069", `\u061c\u200e\u200f\u202a\u202e\u2066\u2069`},
		{"what cannot be seen", "\u00a0\u00ad\u200b\ufeff\U000e0041", `\u00a0\u00ad\u200b\ufeff\udb40\udc41`},
		{"not UTF-8", "a\xff\xc3\xed\xa0\x80b", `a\ufffd\ufffd\ufffd\ufffd\ufffdb`},
		{"the replacement itself", "\ufffd", `\ufffd`},
	} {
		e := Entry{Model: c.text}
		if line := string(e.AppendJSON(nil)); !strings.Contains(line, `,"model":"`+c.want+`"}`) {
			t.Errorf("%s: %s", c.name, line)
		}
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""}, {"abcd", "abcd"}, {"abcde", "abcd"}, {"abcé", "abc"}, {"abéd", "abé"}, {"abé", "abé"}, {"a日本", "a日"}, {"ab日", "ab"},
		{"𝄞a", "𝄞"}, {"a𝄞", "a"}, {"abc\x80\x80\x80\x80", "abc\x80"}, {"\x80\x80\x80\x80\x80", "\x80\x80\x80\x80"}, {"abc\xffd", "abc\xff"},
	} {
		if got := cut(c.text, 4); got != c.want {
			t.Errorf("%q is cut to %q, want %q", c.text, got, c.want)
		}
	}
}

// TestMaxLine measures the longest line.
func TestMaxLine(t *testing.T) {
	long := strings.Repeat("\x01", 1000)
	e := full()
	e.Time = time.Unix(math.MaxInt64/2, 0)
	e.Duration, e.FirstByte = math.MaxInt64, math.MaxInt64
	e.Caller = Caller{UID: math.MaxUint32, Known: true, PID: math.MinInt64, Command: long, Unix: true}
	e.Route, e.Code, e.Model, e.RequestID = long, long, long, long
	e.Status, e.BytesIn, e.BytesOut, e.InputTokens, e.OutputTokens = math.MinInt64, math.MinInt64, math.MinInt64, math.MinInt64, math.MinInt64
	e.Streamed, e.Reused = false, false
	if n := len(e.AppendJSON(nil)); n > MaxLine || n < MaxLine*3/4 {
		t.Errorf("a line has %d bytes, of at most %d", n, MaxLine)
	}
}

func TestNoAllocations(t *testing.T) {
	e, dst := full(), make([]byte, 0, MaxLine)
	e.Model = "\x1b日本\xff𝄞\u202e"
	if n := testing.AllocsPerRun(100, func() { e.AppendJSON(dst) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzLine: for any texts, a line is one line of JSON that a terminal can show, with the same texts.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"", "codex", "a\nb", `"},{"a":"`, "\x1b]0;x\x07", "\u202ex", "\xff\xfe", strings.Repeat("é", 200), strings.Repeat("\x80", 200), "\u2028", "\U000e0041", `\u0000`} {
		f.Add(s, s, s, int64(5))
	}
	f.Fuzz(func(t *testing.T, command, model, id string, n int64) {
		e := full()
		e.Caller.Command, e.Model, e.RequestID, e.Route, e.Code = command, model, id, model, command
		e.Duration, e.BytesIn, e.InputTokens = time.Duration(n), n, n
		line := e.AppendJSON(nil)
		checkLine(t, line)
		var got map[string]any
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v\n%q", err, line)
		}
		for key, want := range map[string]string{
			"command": cut(command, maxCommand), "model": cut(model, maxModel), "request_id": cut(id, maxRequestID),
			"route": cut(model, maxName), "code": cut(command, maxName),
		} {
			text, there := got[key].(string)
			if text != string([]rune(want)) || there != (want != "") {
				t.Fatalf("%s is %q, want %q", key, text, want)
			}
		}
	})
}

func checkLine(t *testing.T, line []byte) {
	t.Helper()
	if len(line) > MaxLine || bytes.IndexByte(line, '\n') != len(line)-1 {
		t.Fatalf("%d bytes, or not one line: %q", len(line), line)
	}
	if !utf8.Valid(line) || !json.Valid(line) {
		t.Fatalf("not valid: %q", line)
	}
	for _, r := range string(line[:len(line)-1]) {
		if !unicode.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r) {
			t.Fatalf("%U stands in %q", r, line)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e, dst := full(), make([]byte, 0, MaxLine)
	b.ReportAllocs()
	for b.Loop() {
		dst = e.AppendJSON(dst[:0])
	}
	b.SetBytes(int64(len(dst)))
}
