/* The program that the tests of this folder attack with. Each verb is bounded by its arguments: counts, MiB, seconds.
 *
 * cc -O1 -o hostile hostile.c -lrt */
#define _GNU_SOURCE
#include <pthread.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int words;
static char **word;

static const char *text(int at) { return at < words ? word[at] : "0"; }
static int number(int at) { return atoi(text(at)); }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* Leaves the session and every pipe of ours. */
static void hide(void) {
    setsid();
    for (int fd = 0; fd < 3; fd++) close(fd);
}

static void take_memory(int mib) {
    size_t bytes = (size_t)mib << 20;
    if (bytes == 0) return;
    char *memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) memset(memory, 1, bytes);
}

/* A child of whoever started this process, and not of this process. */
static long make_sibling(void) { return syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0); }

/* Goes on in a child of nobody that is left here, when its parent is gone. */
static void daemonise(void) {
    int parent = getpid();
    if (fork()) _exit(0);
    hide();
    while (getppid() == parent) usleep(1000);
}

/* sibling COUNT MIB SECONDS LEADER_SECONDS: siblings that take memory and sleep; 0 seconds: they end as zombies. */
static int sibling(void) {
    int made = 0;
    for (; made < number(2); made++) {
        long pid = make_sibling();
        if (pid == 0) {
            hide();
            take_memory(number(3));
            sleep(number(4));
            _exit(0);
        }
        if (pid < 0) break;
    }
    printf("%d made by uid %d\n", made, getuid());
    fflush(stdout);
    sleep(number(5));
    return 0;
}

/* sibling_chain SECONDS: a sibling that makes a sibling and ends, again and again, without our environment. */
static int sibling_chain(void) {
    double end = now() + number(2);
    if (make_sibling() != 0) {
        puts("left");
        return 0;
    }
    hide();
    prctl(PR_SET_DUMPABLE, 0);
    while (now() < end) {
        if (make_sibling() > 0) _exit(0);
        setsid();
        usleep(300);
    }
    _exit(0);
}

/* stopper SECONDS: after the leader's end an orphan stops every process of its uid, again and again. */
static int stopper(void) {
    int gate[2];
    if (pipe(gate)) return 1;
    if (fork() == 0) {
        hide();
        close(gate[1]);
        char byte;
        if (read(gate[0], &byte, 1) < 0) _exit(1);
        double end = now() + number(2);
        while (now() < end)
            for (int i = 0; i < 1000; i++) kill(-1, SIGSTOP);
        _exit(0);
    }
    usleep(20000);
    puts("left");
    fflush(stdout);
    _exit(0);
}

/* stop_loop SECONDS SPARED: a daemonised loop that stops every process of its uid and resumes the one that is spared. */
static int stop_loop(void) {
    daemonise();
    double end = now() + number(2);
    while (now() < end)
        for (int i = 0; i < 1000; i++) {
            kill(-1, SIGSTOP);
            if (number(3)) kill(number(3), SIGCONT);
        }
    _exit(0);
}

/* stop_all SECONDS: stops every other process of its uid, again and again. */
static int stop_all(void) {
    double end = now() + number(2);
    while (now() < end)
        for (int i = 0; i < 1000; i++) kill(-1, SIGSTOP);
    return 0;
}

/* touch PID ROUNDS: tries to stop, kill, trace and read one process: what could be done. */
static int touch(void) {
    int pid = number(2), could = 0;
    char path[64], byte;
    for (int i = 0; i < 1 + number(3); i++) {
        could |= (kill(pid, 0) == 0) << 0;
        could |= (ptrace(PTRACE_ATTACH, pid, 0, 0) == 0) << 1;
        sprintf(path, "/proc/%d/environ", pid);
        int fd = open(path, O_RDONLY);
        could |= (fd >= 0 && read(fd, &byte, 1) > 0) << 2;
        if (fd >= 0) close(fd);
        sprintf(path, "/proc/%d/mem", pid);
        fd = open(path, O_RDWR);
        could |= (fd >= 0) << 3;
        if (fd >= 0) close(fd);
        sprintf(path, "/proc/%d/fd/1", pid);
        could |= (access(path, F_OK) == 0) << 4;
    }
    printf("signal %d trace %d environ %d mem %d fd %d\n", could & 1, could >> 1 & 1, could >> 2 & 1, could >> 3 & 1,
           could >> 4 & 1);
    return 0;
}

/* frame MIB SECONDS BURN NAME=VALUE...: an orphan with exactly this environment takes memory and burns CPU time if BURN
 * is 1; the leader waits as long. */
static int frame(void) {
    if (!strcmp(word[0], "framed")) {
        double end = now() + number(3);
        take_memory(number(2));
        while (now() < end)
            if (!number(4)) usleep(50000);
        _exit(0);
    }
    if (fork() == 0) {
        setsid();
        if (fork()) _exit(0);
        usleep(20000);
        char *environment[32] = {0};
        for (int i = 5; i < words && i < 36; i++) environment[i - 5] = word[i];
        for (int fd = 0; fd < 3; fd++) close(fd);
        word[0] = "framed";
        execve("/proc/self/exe", word, environment);
        _exit(1);
    }
    sleep(number(3));
    return 0;
}

/* ghost still|chain SECONDS NAME=VALUE...: an orphan with this environment alone, not dumpable; a chain has a new pid
 * every 0.3 ms. */
static int ghost(void) {
    if (strcmp(word[0], "ghost")) {
        int gate[2];
        if (pipe(gate)) return 1;
        if (fork() == 0) {
            setsid();
            char fd[16], *environment[8] = {0}, *arguments[] = {"ghost", word[1], word[2], word[3], fd, 0};
            sprintf(fd, "%d", gate[1]);
            for (int i = 4; i < words && i < 11; i++) environment[i - 4] = word[i];
            execve("/proc/self/exe", arguments, environment);
            _exit(9);
        }
        close(gate[1]);
        char byte;
        if (read(gate[0], &byte, 1) < 0) return 1;
        puts("hidden");
        fflush(stdout);
        _exit(0);
    }
    int fd = number(4);
    double end = now() + number(3);
    prctl(PR_SET_DUMPABLE, 0);
    for (int i = 0; i < 3; i++) close(i);
    if (write(fd, "x", 1) < 0) _exit(1);
    close(fd);
    while (now() < end) {
        if (!strcmp(text(2), "still")) {
            usleep(100000);
            continue;
        }
        setsid();
        if (fork() > 0) _exit(0);
        usleep(300);
    }
    _exit(0);
}

/* leave KEY NAME: puts a secret into everything that outlives a process of its uid. */
static int leave(void) {
    struct { long type; char bytes[20]; } message = {1, "msg-secret"};
    key_t key = strtol(text(2), 0, 0);
    char path[256];
    char *memory = shmat(shmget(key, 4096, IPC_CREAT | 0600), 0, 0);
    if (memory != (void *)-1) strcpy(memory, "shm-secret");
    msgsnd(msgget(key, IPC_CREAT | 0600), &message, 12, IPC_NOWAIT);
    semget(key, 1, IPC_CREAT | 0600);
    sprintf(path, "/%s", text(3));
    mq_send(mq_open(path, O_CREAT | O_RDWR, 0600, 0), "mq-secret", 10, 0);
    char *folders[] = {"/dev/shm", "/tmp", "/var/tmp"};
    for (int i = 0; i < 3; i++) {
        sprintf(path, "%s/%s", folders[i], text(3));
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        if (fd >= 0) write(fd, "file-secret", 12), close(fd);
        sprintf(path, "%s/%s.d", folders[i], text(3));
        mkdir(path, 0700);
        strcat(path, "/inner");
        fd = open(path, O_CREAT | O_WRONLY, 0600);
        if (fd >= 0) close(fd);
    }
    printf("%d\n", getuid());
    return 0;
}

/* find KEY NAME: what of that is to be had: a word each. */
static int find(void) {
    struct { long type; char bytes[20]; } message = {0};
    key_t key = strtol(text(2), 0, 0);
    char path[256], bytes[9000] = {0};
    char *memory = shmat(shmget(key, 0, 0), 0, SHM_RDONLY);
    if (memory != (void *)-1) printf("shm ");
    if (msgrcv(msgget(key, 0), &message, 20, 0, IPC_NOWAIT) > 0) printf("msg ");
    if (semget(key, 0, 0) >= 0) printf("sem ");
    sprintf(path, "/%s", text(3));
    if (mq_receive(mq_open(path, O_RDONLY | O_NONBLOCK), bytes, 9000, 0) > 0) printf("mq ");
    char *folders[] = {"/dev/shm", "/tmp", "/var/tmp"};
    for (int i = 0; i < 3; i++) {
        sprintf(path, "%s/%s", folders[i], text(3));
        if (access(path, F_OK) == 0) printf("%s ", folders[i]);
        strcat(path, ".d");
        if (access(path, F_OK) == 0) printf("%s.d ", folders[i]);
    }
    printf("uid %d\n", getuid());
    return 0;
}

/* keyrings NAME open|lock|revoke: looks for a key in the keyrings that outlive a process of its uid, a word for each that
   has it, puts the key there, and, but for "open", sees to it that nobody removes it. */
static int keyrings(void) {
    long rings[20] = {-4, -5, syscall(SYS_keyctl, 22, -1, -2)};
    int count = 3;
    char line[300], bytes[100];
    /* Those that show themselves, by their numbers. */
    FILE *shown = fopen("/proc/keys", "r");
    while (shown && count < 20 && fgets(line, sizeof line, shown))
        if (strstr(line, "_uid")) rings[count++] = strtol(line, 0, 16);
    for (int i = 0; i < count; i++) {
        syscall(SYS_keyctl, 8, rings[i], -2);
        long found = syscall(SYS_keyctl, 10, rings[i], "user", text(2), -2);
        if (found > 0 && syscall(SYS_keyctl, 11, found, bytes, 99) > 0)
            printf("%s ", i == 0 ? "user" : i == 1 ? "user-session" : i == 2 ? "persistent" : "by-number");
    }
    for (int i = 0; i < count; i++) syscall(SYS_add_key, "user", text(2), "key-secret", 10, rings[i]);
    for (int i = 0; i < count; i++) {
        if (!strcmp(text(3), "lock")) syscall(SYS_keyctl, 29, rings[i], 0, 0), syscall(SYS_keyctl, 5, rings[i], 0x001b0000);
        if (!strcmp(text(3), "revoke")) syscall(SYS_keyctl, 3, rings[i]);
    }
    printf("uid %d\n", getuid());
    return 0;
}

/* key NAME [clear|put]: reads a key of its session keyring; empties the keyring, or puts the key there. */
static int key(void) {
    char bytes[200] = {0};
    if (!strcmp(text(3), "put")) syscall(SYS_add_key, "user", text(2), "put-secret", 10, -3);
    long found = syscall(SYS_keyctl, 10, -3, "user", text(2), 0);
    long got = found > 0 ? syscall(SYS_keyctl, 11, found, bytes, 199) : -1;
    printf("%s\n", got > 0 ? bytes : "none");
    if (!strcmp(text(3), "clear")) syscall(SYS_keyctl, 7, -3);
    return 0;
}

static void *sleep_on(void *seconds) {
    sleep((long)seconds);
    exit(0);
}

static void *take_on(void *mib) {
    take_memory((long)mib);
    sleep(600);
    exit(0);
}

/* headless left PATH|memory MIB: a process whose first thread has ended, so that it looks dead: one that is left behind
   and has a lock on the file, in which its number is, or this one, which takes memory. */
static int headless(void) {
    pthread_t thread;
    int is_left = !strcmp(text(2), "left");
    if (is_left) {
        int fd = open(text(3), O_CREAT | O_RDWR, 0666);
        flock(fd, LOCK_EX);
        if (fork()) {
            usleep(100 * 1000);
            _exit(0);
        }
        setsid(), close(0), close(1), close(2);
        dprintf(fd, "%d", getpid());
    }
    pthread_create(&thread, 0, is_left ? sleep_on : take_on, (void *)(long)(is_left ? 600 : number(3)));
    syscall(SYS_exit, 0);
    return 0;
}

/* fill FOLDER SECONDS: files without end, through a descriptor of the folder. */
static int fill(void) {
    int folder = open(text(2), O_PATH | O_DIRECTORY);
    double end = now() + number(3);
    long made = 0;
    char name[32];
    while (now() < end && made < 2000000)
        for (int i = 0; i < 100; i++) {
            sprintf(name, "f%ld", made++);
            int fd = openat(folder, name, O_CREAT | O_WRONLY, 0600);
            if (fd >= 0) close(fd);
        }
    printf("%ld\n", made);
    return 0;
}

/* unexeced FILE SECONDS SPARED: stops what is started beside it before its exec, and opens the memory that it shares with
 * the daemon then. */
static int unexeced(void) {
    daemonise();
    double end = now() + number(3);
    int hits = 0;
    FILE *log = fopen(text(2), "w");
    chmod(text(2), 0644);
    while (now() < end && hits < 3) {
        for (int i = 0; i < 200; i++) {
            kill(-1, SIGSTOP);
            kill(number(4), SIGCONT);
        }
        DIR *processes = opendir("/proc");
        struct dirent *entry;
        while (processes && (entry = readdir(processes))) {
            char path[64], name[64] = {0};
            struct stat facts;
            int pid = atoi(entry->d_name), fd;
            if (pid <= 0) continue;
            sprintf(path, "/proc/%d", pid);
            if (stat(path, &facts) || facts.st_uid != getuid()) continue;
            strcat(path, "/comm");
            fd = open(path, O_RDONLY);
            if (fd < 0 || read(fd, name, 63) < 0) continue;
            close(fd);
            if (strncmp(name, "worker-", 7)) continue;
            sprintf(path, "/proc/%d/mem", pid);
            fd = open(path, O_RDWR);
            hits++;
            fprintf(log, "mem: %s\n", fd < 0 ? strerror(errno) : "read and write");
            fflush(log);
            if (fd >= 0) close(fd);
            usleep(100000);
        }
        if (processes) closedir(processes);
    }
    _exit(0);
}

/* flood FILE SECONDS BYTES: writes pieces of so many bytes. */
static int flood(void) {
    int fd = open(text(2), O_WRONLY | O_NONBLOCK), bytes = number(4);
    char *piece = malloc(bytes + 1);
    memset(piece, 'x', bytes);
    double end = now() + number(3);
    while (now() < end)
        for (int i = 0; i < 50; i++)
            if (write(fd, piece, bytes) < 0) usleep(20);
    return fd < 0;
}

/* automount FOLDER: mounts there what makes whoever looks for a name in it wait for an answer, and gives none until its
 * input ends; then all are told that there is no such name. */
static int automount(void) {
    int requests[2];
    char options[100], byte;
    setsid();
    if (pipe(requests)) return 1;
    sprintf(options, "fd=%d,pgrp=%d,minproto=5,maxproto=5,indirect", requests[1], getpgrp());
    if (mount("cofferdam-test", text(2), "autofs", 0, options)) return printf("%s\n", strerror(errno)), fflush(stdout), 1;
    int root = open(text(2), O_RDONLY | O_DIRECTORY);
    puts("mounted");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {}
    /* AUTOFS_IOC_CATATONIC */
    return ioctl(root, _IO(0x93, 0x62), 0) != 0;
}

/* memory MIB SECONDS */
static int memory(void) {
    take_memory(number(2));
    sleep(number(3));
    return 0;
}

int main(int count, char **all) {
    struct { char *name; int (*run)(void); } verbs[] = {
        {"sibling", sibling}, {"sibling_chain", sibling_chain}, {"stopper", stopper}, {"stop_loop", stop_loop},
        {"stop_all", stop_all},
        {"touch", touch}, {"frame", frame}, {"ghost", ghost}, {"leave", leave}, {"find", find}, {"key", key},
        {"keyrings", keyrings}, {"headless", headless},
        {"fill", fill}, {"unexeced", unexeced}, {"flood", flood}, {"memory", memory}, {"automount", automount},
    };
    words = count, word = all;
    for (int i = 0; i < (int)(sizeof verbs / sizeof *verbs); i++)
        if (count > 1 && !strcmp(all[1], verbs[i].name)) return verbs[i].run();
    return 2;
}
